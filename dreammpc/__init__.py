"""Control by planning in learned world models.

Kept free of imports: the launcher must start at once, and nothing here may need MLflow.
"""

__version__ = "0.1.0"
