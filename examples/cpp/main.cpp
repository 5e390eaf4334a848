// Runs an agent that `dreammpc export --format aoti` wrote, at a fixed rate, without Python:
//
//     plan_loop FILE STEPS HZ SEED < observations > actions
//
// Reads O numbers per step from stdin (zeros after their end), prints A numbers per step. At HZ 0 it does not wait.
// What is no finite number, seen or planned, ends it with an error.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

struct Entry {
  std::string name;
  torch::Dtype dtype;
  std::vector<int64_t> shape;
};

// "NAME DTYPE 1,2,3;NAME …", as the file's metadata has its inputs and outputs for readers without JSON.
std::vector<Entry> entries(const std::string& text) {
  static const std::map<std::string, torch::Dtype> dtypes{
      {"float32", torch::kFloat32}, {"int64", torch::kInt64}, {"bool", torch::kBool}, {"uint8", torch::kUInt8}};
  std::vector<Entry> found;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ';');) {
    std::istringstream words(part);
    std::string name, dtype, sizes, size;
    words >> name >> dtype >> sizes;
    std::vector<int64_t> shape;
    for (std::istringstream rest(sizes); std::getline(rest, size, ',');) shape.push_back(std::stoll(size));
    found.push_back({name, dtypes.at(dtype), shape});
  }
  return found;
}

// What went wrong while it ran, and not with the file.
struct StepError : std::runtime_error {
  StepError(int64_t step, const std::string& what)
      : std::runtime_error("step " + std::to_string(step + 1) + ": " + what) {}
};

int run(const std::string& path, int64_t steps, double hz, uint64_t seed) {
  using Loader = torch::inductor::AOTIModelPackageLoader;
  auto metadata = Loader::load_metadata_from_package(path, "model");
  if (!metadata.count("dreammpc")) throw std::runtime_error("it was not made by dreammpc export --format aoti");
  if (metadata["dreammpc"].find("\"initial\": [") != std::string::npos)
    throw std::runtime_error("its carry begins with other values than zeros; this example reads none");
  const auto inputs = entries(metadata["dreammpc.inputs"]), outputs = entries(metadata["dreammpc.outputs"]);
  Loader loader(path, "model", /*run_single_threaded=*/true);

  // An input that is an output, too, is carried from step to step. The others are the observation and, if it was
  // exported with --ahead, pending actions and how many of them count: none here.
  std::vector<torch::Tensor> values;
  std::map<std::string, size_t> carried;
  for (size_t i = 0; i < inputs.size(); ++i) {
    values.push_back(torch::zeros(inputs[i].shape, inputs[i].dtype));
    for (size_t k = 3; k < outputs.size(); ++k)  // after the action, the plan and its value
      if (outputs[k].name == inputs[i].name) carried[inputs[i].name] = k;
  }
  if (inputs[0].name != "observation") throw std::runtime_error("it sees frames; this example reads vectors");

  torch::InferenceMode guard;
  torch::set_num_threads(1);
  torch::manual_seed(seed);
  using Clock = std::chrono::steady_clock;
  const auto began = Clock::now();
  int late = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const std::chrono::duration<double> due(hz > 0 ? step / hz : 0.0), next(hz > 0 ? (step + 1) / hz : 1e9);
    std::this_thread::sleep_until(began + std::chrono::duration_cast<Clock::duration>(due));
    auto observation = torch::zeros(inputs[0].shape);
    for (int64_t i = 0; i < observation.numel(); ++i) {
      if (double number; std::cin >> number)
        observation[0][i] = number;
      else if (!std::cin.eof())
        throw StepError(step, "the observation's entry " + std::to_string(i + 1) + " is no finite number");
    }
    values[0] = observation;
    const auto results = loader.run(values);
    late += Clock::now() - began > next;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (auto found = carried.find(inputs[i].name); found != carried.end()) values[i] = results[found->second];
    const auto action = results[0].contiguous();  // to a robot: send it here
    if (!torch::isfinite(action).all().item<bool>()) throw StepError(step, "the action is not finite");
    for (int64_t i = 0; i < action.numel(); ++i) std::printf(i ? " %.9g" : "%.9g", action.data_ptr<float>()[i]);
    std::printf("\n");
    std::fflush(stdout);  // now, and not when the next step begins
  }
  std::fprintf(stderr, "%d steps, %d plans after their period\n", steps, late);
  return 0;
}

// A finite number of at least 0 that is all of a word.
double number(const std::string& word) {
  size_t end = 0;
  const double found = std::stod(word, &end);
  if (end != word.size() || !std::isfinite(found) || found < 0) throw std::invalid_argument(word);
  return found;
}

int main(int count, char** words) {
  try {
    if (count != 5) throw std::invalid_argument("words");
    return run(words[1], static_cast<int64_t>(number(words[2])), number(words[3]), static_cast<uint64_t>(number(words[4])));
  } catch (const std::logic_error&) {  // of stod and its like
    std::fprintf(stderr, "error: expected FILE STEPS HZ SEED, the last three numbers of at least 0\n");
  } catch (const StepError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  } catch (const std::exception& error) {
    std::string text = error.what();
    std::fprintf(stderr, "error: file %s: %s\n", words[1], text.substr(0, text.find('\n')).c_str());
  }
  return 2;
}
