// SPDX-License-Identifier: Apache-2.0
#include "device/shadow_device.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/copy.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <vector>

#include "backbone/device.h"
#include "base/error.h"
#include "device/shadow_memory.h"
#include "device/shadow_ops.h"
#include "device/shadow_recorder.h"

namespace polyad {
namespace {

constexpr auto type = c10::DeviceType::PrivateUse1;
constexpr auto key = c10::DispatchKey::PrivateUse1;
const c10::Device device(type, 0);

at::Tensor make_empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                      std::optional<at::Device>, std::optional<bool>,
                      std::optional<at::MemoryFormat> format) {
    return at::detail::empty_generic(size, shadow_allocator(), c10::DispatchKeySet(key),
                                     dtype.value_or(at::kFloat), format);
}

at::Tensor make_empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                              std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                              std::optional<at::Device>, std::optional<bool>) {
    return at::detail::empty_strided_generic(size, stride, shadow_allocator(), c10::DispatchKeySet(key),
                                             dtype.value_or(at::kFloat));
}

bool ours(const at::Tensor& t) {
    return t.defined() && t.device().type() == type;
}

/// A tensor's memory, seen by the CPU whenever it is asked for. Keeps nothing alive but tensors of the host.
class View {
  public:
    explicit View(const at::Tensor& t) : type_(t.defined() ? t.scalar_type() : at::kFloat) {
        if (!ours(t)) {
            host_ = t;
            return;
        }
        sizes_ = t.sizes().vec();
        strides_ = t.strides().vec();
        empty_ = t.numel() == 0;
        if (!empty_) address_ = t.const_data_ptr();
        ours_ = true;
    }
    at::Tensor get() const {
        if (!ours_) return host_;
        const auto options = at::TensorOptions().dtype(type_);
        if (empty_) return at::empty(sizes_, options);  // an out argument may grow
        return at::from_blob(shadow_host(address_), sizes_, strides_, options);
    }

  private:
    at::ScalarType type_;
    std::vector<int64_t> sizes_, strides_;
    const void* address_ = nullptr;
    bool ours_ = false, empty_ = false;
    at::Tensor host_;
};

at::Tensor seen_by_cpu(const at::Tensor& t) {
    return View(t).get();
}

at::Tensor brought_back(const at::Tensor& t) {
    if (!t.defined() || ours(t)) return t;
    at::Tensor out = at::empty_strided(t.sizes(), t.strides(), t.options().device(device));
    seen_by_cpu(out).copy_(t);
    return out;
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
    auto* impl = self.unsafeGetTensorImpl();
    impl->set_sizes_contiguous(size);
    const size_t wanted = (self.numel() + self.storage_offset()) * self.element_size();
    c10::StorageImpl* storage = self.storage().unsafeGetStorageImpl();
    if (wanted > storage->nbytes()) {
        c10::DataPtr fresh = shadow_allocate(wanted);
        if (storage->nbytes() > 0)
            shadow_allocator()->copy_data(fresh.get(), storage->data(), storage->nbytes());
        storage->set_data_ptr_noswap(std::move(fresh));
        storage->set_nbytes(wanted);
    }
    return self;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
    if (!ours(from) || !ours(to)) {
        shadow_refuse("a copy from or to host memory");
        shadow_waits();
    }
    shadow_run([from = View(from), to = View(to)] { to.get().copy_(from.get()); });
    return to;
}

/// An operator's argument as the CPU's gets it, each time it is called.
class Argument {
  public:
    Argument(const c10::IValue& value, const c10::Argument& schema, const std::string& op) : value_(value) {
        const auto add = [&](const at::Tensor& t) {
            if (t.defined() && !ours(t) && t.dim() > 0)
                fail(Code::internal, "operator ", op, " mixes a tensor of ", t.device().str(), " ", t.sizes(),
                     " with tensors of the device");
            views_.emplace_back(View(t));
        };
        if (value.isTensor()) {
            kind_ = Kind::tensor;
            add(value.toTensor());
        } else if (value.isTensorList()) {
            kind_ = Kind::tensors;
            for (const at::Tensor& t : value.toTensorVector()) add(t);
        } else if (value.isList() && value.toListRef().size() > 0 &&
                   schema.type()->str().find("Tensor") != std::string::npos) {
            kind_ = Kind::optional_tensors;
            for (const c10::IValue& t : value.toListRef())
                if (t.isNone())
                    views_.emplace_back(std::nullopt);
                else
                    add(t.toTensor());
        } else if (value.isDevice()) {
            value_ = at::Device(at::kCPU);
        }
        if (kind_ != Kind::other) value_ = {};
    }
    c10::IValue get() const {
        switch (kind_) {
            case Kind::tensor:
                return views_[0]->get();
            case Kind::tensors: {
                c10::List<at::Tensor> list;
                for (const auto& view : views_) list.push_back(view->get());
                return list;
            }
            case Kind::optional_tensors: {
                c10::List<std::optional<at::Tensor>> list;
                for (const auto& view : views_)
                    list.push_back(view ? std::optional<at::Tensor>(view->get()) : std::nullopt);
                return list;
            }
            case Kind::other:
                break;
        }
        return value_;
    }

  private:
    enum class Kind { other, tensor, tensors, optional_tensors } kind_ = Kind::other;
    c10::IValue value_;
    std::vector<std::optional<View>> views_;
};

/// Once more, into the tensors that the first call returned.
void run_again(const c10::OperatorHandle& op, const std::vector<Argument>& arguments,
               const std::vector<std::optional<View>>& results) {
    torch::jit::Stack stack;
    for (const Argument& argument : arguments) stack.push_back(argument.get());
    op.callBoxed(&stack);
    for (size_t r = 0; r < results.size(); ++r)
        if (results[r]) results[r]->get().copy_(stack[stack.size() - results.size() + r].toTensor());
}

/// Every other operator: the CPU's, on the same memory.
void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    const auto& schema = op.schema();
    const std::string& name = op.operator_name().name;
    const size_t count = schema.arguments().size(), first = stack->size() - count;
    const std::vector<c10::IValue> given(stack->begin() + static_cast<int64_t>(first), stack->end());
    stack->erase(stack->begin() + static_cast<int64_t>(first), stack->end());
    std::vector<Argument> arguments;
    std::vector<at::Tensor> aliases;
    for (size_t i = 0; i < count; ++i) {
        arguments.emplace_back(given[i], schema.arguments()[i], name);
        stack->push_back(arguments.back().get());
        aliases.push_back(stack->back().isTensor() ? stack->back().toTensor() : at::Tensor());
    }
    op.callBoxed(stack);
    // Out arguments that the operator made larger.
    for (size_t i = 0; i < count; ++i) {
        const auto* alias = schema.arguments()[i].alias_info();
        if (!alias || !alias->isWrite() || !given[i].isTensor() || !ours(given[i].toTensor())) continue;
        const at::Tensor original = given[i].toTensor();
        if (aliases[i].sizes() == original.sizes()) continue;
        shadow_refuse("an out argument that grows");
        resize(original, aliases[i].sizes(), {});
        seen_by_cpu(original).copy_(aliases[i]);
    }
    const size_t returns = schema.returns().size(), begin = stack->size() - returns;
    std::vector<std::optional<View>> results(returns);
    for (size_t r = 0; r < returns; ++r) {
        c10::IValue& value = (*stack)[begin + r];
        const auto* alias = schema.returns()[r].alias_info();
        if (alias && alias->isWrite()) {
            for (size_t i = 0; i < count; ++i) {
                const auto* source = schema.arguments()[i].alias_info();
                if (source && *source == *alias) value = given[i];
            }
        } else if (alias) {
            fail(Code::internal, "the shadow device does not know the view operator ", name);
        } else if (value.isTensor()) {
            value = brought_back(value.toTensor());
            results[r] = View(value.toTensor());
        } else if (value.isTensorList()) {
            shadow_refuse("an operator that returns a list");
            c10::List<at::Tensor> list;
            for (const at::Tensor& t : value.toTensorVector()) list.push_back(brought_back(t));
            value = list;
        } else {
            shadow_refuse("an operator whose result goes to the host");
            shadow_waits();
        }
    }
    // Sizes that depend on values have to be asked for.
    if (name == "aten::nonzero" || name == "aten::masked_select") shadow_refuse(name.c_str());
    shadow_note([op, arguments = std::move(arguments), results = std::move(results)] {
        run_again(op, arguments, results);
    });
}

c10::Stream stream_of(int64_t id) {
    return c10::Stream(c10::Stream::UNSAFE, device, id);
}

struct Hooks final : at::PrivateUse1HooksInterface {
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    bool isAvailable() const override { return true; }
    bool isBuilt() const override { return true; }
};

/// One device; what is queued on any of its streams is done at once.
struct Guard final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return ::polyad::type; }
    c10::Device exchangeDevice(c10::Device) const override { return device; }
    c10::Device getDevice() const override { return device; }
    void setDevice(c10::Device) const override {}
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    c10::Stream getStream(c10::Device) const override { return stream_of(shadow_stream()); }
    c10::Stream getDefaultStream(c10::Device) const override { return stream_of(0); }
    c10::Stream exchangeStream(c10::Stream to) const override {
        return stream_of(exchange_shadow_stream(to.id()));
    }
    void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
    void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
    void synchronizeDevice(const c10::DeviceIndex) const override {}
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
    m.impl("empty.memory_format", &make_empty);
    m.impl("empty_strided", &make_empty_strided);
    m.impl("resize_", &resize);
    m.impl("_copy_from", &copy_from);
    m.impl("as_strided", &at::native::as_strided_tensorimpl);
    m.impl("view", &at::native::view);
    m.impl("unfold", &at::native::unfold);
    m.impl("_reshape_alias", &at::native::_reshape_alias);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
    m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

}  // namespace

at::Device shadow_device() {
    static const bool known = [] {
        static Hooks hooks;
        at::RegisterPrivateUse1HooksInterface(&hooks);
        c10::register_privateuse1_backend("shadow");
        c10::SetAllocator(type, shadow_allocator());
        register_kernels(
            type, [](at::Device) -> const kernels::OpTable& { return shadow_ops(); }, &take_shadow_error);
        register_recorder(type, &make_shadow_recorder);
        return true;
    }();
    return known ? device : at::Device(at::kCPU);
}

}  // namespace polyad
