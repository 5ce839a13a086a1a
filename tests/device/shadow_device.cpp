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

#include <cstdlib>
#include <cstring>
#include <new>

#include "backbone/device.h"
#include "base/error.h"
#include "device/shadow_ops.h"

namespace polyad {
namespace {

constexpr auto type = c10::DeviceType::PrivateUse1;
constexpr auto key = c10::DispatchKey::PrivateUse1;
constexpr uintptr_t mark = uintptr_t{1} << 62;  // no address of a program has this bit: using one faults

/// Only storages see the mark: every address of a tensor on the device derives from its storage's.
class MarkedAllocator final : public c10::Allocator {
  public:
    c10::DataPtr allocate(size_t n) override {
        if (n == 0) return {nullptr, device()};
        void* host = std::aligned_alloc(64, (n + 63) / 64 * 64);
        if (!host) throw std::bad_alloc();
        // What nobody has written yet must not look like a result.
        std::memset(host, 0xFF, n);
        void* marked = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(host) | mark);
        return {marked, host, std::free, device()};
    }
    void copy_data(void* to, const void* from, size_t n) const override {
        std::memcpy(host_of(to), host_of(from), n);
    }
    static c10::Device device() { return {type, 0}; }
    static void* host_of(const void* p) {
        return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(p) & ~mark);
    }
};

MarkedAllocator allocator;

at::Tensor make_empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                      std::optional<at::Device>, std::optional<bool>,
                      std::optional<at::MemoryFormat> format) {
    return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(key), dtype.value_or(at::kFloat),
                                     format);
}

at::Tensor make_empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                              std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                              std::optional<at::Device>, std::optional<bool>) {
    return at::detail::empty_strided_generic(size, stride, &allocator, c10::DispatchKeySet(key),
                                             dtype.value_or(at::kFloat));
}

bool ours(const at::Tensor& t) {
    return t.defined() && t.device().type() == type;
}

/// The same memory as a CPU tensor.
at::Tensor seen_by_cpu(const at::Tensor& t) {
    if (!ours(t)) return t;
    const auto options = at::TensorOptions().dtype(t.scalar_type());
    if (t.numel() == 0) return at::empty(t.sizes(), options);  // an out argument may grow
    return at::from_blob(MarkedAllocator::host_of(t.const_data_ptr()), t.sizes(), t.strides(), options);
}

at::Tensor brought_back(const at::Tensor& t) {
    if (!t.defined() || ours(t)) return t;
    at::Tensor out = at::empty_strided(t.sizes(), t.strides(), t.options().device(MarkedAllocator::device()));
    seen_by_cpu(out).copy_(t);
    return out;
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
    auto* impl = self.unsafeGetTensorImpl();
    impl->set_sizes_contiguous(size);
    const size_t wanted = (self.numel() + self.storage_offset()) * self.element_size();
    c10::StorageImpl* storage = self.storage().unsafeGetStorageImpl();
    if (wanted > storage->nbytes()) {
        c10::DataPtr fresh = allocator.allocate(wanted);
        if (storage->nbytes() > 0) allocator.copy_data(fresh.get(), storage->data(), storage->nbytes());
        storage->set_data_ptr_noswap(std::move(fresh));
        storage->set_nbytes(wanted);
    }
    return self;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
    seen_by_cpu(to).copy_(seen_by_cpu(from));
    return to;
}

/// Every other operator: the CPU's, on the same memory.
void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    const auto& schema = op.schema();
    const size_t count = schema.arguments().size(), first = stack->size() - count;
    std::vector<c10::IValue> given(stack->begin() + static_cast<int64_t>(first), stack->end());
    const auto convert = [&](const at::Tensor& t) {
        if (t.defined() && !ours(t) && t.dim() > 0)
            fail(Code::internal, "operator ", op.operator_name().name, " mixes a tensor of ",
                 t.device().str(), " ", t.sizes(), " with tensors of the device");
        return seen_by_cpu(t);
    };
    for (size_t i = 0; i < count; ++i) {
        c10::IValue& value = (*stack)[first + i];
        if (value.isTensor()) {
            value = convert(value.toTensor());
        } else if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor& t : value.toTensorVector()) list.push_back(convert(t));
            value = list;
        } else if (value.isList() && value.toListRef().size() > 0 &&
                   schema.arguments()[i].type()->str().find("Tensor") != std::string::npos) {
            c10::List<std::optional<at::Tensor>> list;
            for (const c10::IValue& t : value.toListRef())
                list.push_back(t.isNone() ? std::optional<at::Tensor>() : convert(t.toTensor()));
            value = list;
        } else if (value.isDevice()) {
            value = at::Device(at::kCPU);
        }
    }
    std::vector<at::Tensor> aliases;
    for (size_t i = 0; i < count; ++i)
        aliases.push_back((*stack)[first + i].isTensor() ? (*stack)[first + i].toTensor() : at::Tensor());
    op.callBoxed(stack);
    // Out arguments that the operator made larger.
    for (size_t i = 0; i < count; ++i) {
        const auto* alias = schema.arguments()[i].alias_info();
        if (!alias || !alias->isWrite() || !given[i].isTensor() || !ours(given[i].toTensor())) continue;
        const at::Tensor original = given[i].toTensor();
        if (aliases[i].sizes() == original.sizes()) continue;
        resize(original, aliases[i].sizes(), {});
        seen_by_cpu(original).copy_(aliases[i]);
    }
    const size_t returns = schema.returns().size(), begin = stack->size() - returns;
    for (size_t r = 0; r < returns; ++r) {
        c10::IValue& value = (*stack)[begin + r];
        const auto* alias = schema.returns()[r].alias_info();
        if (alias && alias->isWrite()) {
            for (size_t i = 0; i < count; ++i) {
                const auto* source = schema.arguments()[i].alias_info();
                if (source && *source == *alias) value = given[i];
            }
        } else if (alias) {
            fail(Code::internal, "the shadow device does not know the view operator ",
                 op.operator_name().name);
        } else if (value.isTensor()) {
            value = brought_back(value.toTensor());
        } else if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor& t : value.toTensorVector()) list.push_back(brought_back(t));
            value = list;
        }
    }
}

struct Hooks final : at::PrivateUse1HooksInterface {
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    bool isAvailable() const override { return true; }
    bool isBuilt() const override { return true; }
};

/// One device with one stream, on which everything is done at once.
struct Guard final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return device().type(); }
    c10::Device exchangeDevice(c10::Device) const override { return device(); }
    c10::Device getDevice() const override { return device(); }
    void setDevice(c10::Device) const override {}
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, device()); }
    c10::Stream getDefaultStream(c10::Device) const override {
        return c10::Stream(c10::Stream::DEFAULT, device());
    }
    c10::Stream exchangeStream(c10::Stream) const override {
        return c10::Stream(c10::Stream::DEFAULT, device());
    }
    void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
    void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
    void synchronizeDevice(const c10::DeviceIndex) const override {}
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  private:
    static c10::Device device() { return MarkedAllocator::device(); }
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

void* shadow_host(const void* address) {
    if (!address) return nullptr;
    const auto value = reinterpret_cast<uintptr_t>(address);
    if (!(value & mark)) fail(Code::internal, "a kernel of the device got an address of host memory");
    return reinterpret_cast<void*>(value & ~mark);
}

at::Device shadow_device() {
    static const bool known = [] {
        static Hooks hooks;
        at::RegisterPrivateUse1HooksInterface(&hooks);
        c10::register_privateuse1_backend("shadow");
        c10::SetAllocator(type, &allocator);
        register_kernels(type, [](at::Device) -> const kernels::OpTable& { return shadow_ops(); });
        return true;
    }();
    return known ? MarkedAllocator::device() : at::Device(at::kCPU);
}

}  // namespace polyad
