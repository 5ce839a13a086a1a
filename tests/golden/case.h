// SPDX-License-Identifier: Apache-2.0
// One golden case: the tensors and the description a file holds.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/config.h"

namespace polyad::golden {

struct Case {
    std::string name, method, expected_error;
    bool train = false;
    Json config;
    double rtol = 0.0, atol = 0.0;
    std::vector<std::string> trainable, grad_inputs;
    std::map<std::string, at::Tensor> tensors;  ///< under their full names ("in.x", "param.lora_a", ...)

    /// Undefined when the file has none of that name.
    at::Tensor find(const std::string& name) const;
    /// Throws when there is none.
    at::Tensor at(const std::string& name) const;
    /// Names that begin with `prefix`, without it.
    std::vector<std::string> names(const std::string& prefix) const;
};

/// Where the cases are computed; the CPU unless set. A case's own tensors stay in host memory.
at::Device device();
void set_device(at::Device device);

Case read_case(const std::filesystem::path& file);

/// What is wrong with `got`, or empty when it is within tolerance. Integers must be equal.
std::string difference(const std::string& what, const at::Tensor& got, const at::Tensor& want, const Case& c);

/// Runs a case with the product's classes; returns what is wrong with it, empty when nothing is.
std::string run_method_case(const Case& c);
/// Cluster scores, which belong to no layer.
std::string run_intuition_case(const Case& c);
/// False when no class of the product stands behind this method.
bool knows_method(const std::string& method);

/// Runs metrics.json; `report` gets one line per case. Cases about another method than `methods` are left out
/// (empty = all).
struct Count {
    int passed = 0, failed = 0;
};
Count run_metrics(const std::filesystem::path& file, const std::vector<std::string>& methods);

/// Prints a case's line and counts it.
void report(const std::string& name, const std::string& problem, Count& count);

}  // namespace polyad::golden
