// SPDX-License-Identifier: Apache-2.0
//! What crosses the C boundary: owned strings and id lists, lent slices, and panics turned into error texts.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

pub const OK: i32 = 0;
pub const REFUSED: i32 = 1;
pub const EXCEPTION: i32 = 2;
pub const PANIC: i32 = 3;

/// Why a call was refused, with the code it returns.
pub struct Failure {
    pub code: i32,
    pub message: String,
}

impl Failure {
    pub fn refused(message: impl ToString) -> Self {
        Failure { code: REFUSED, message: message.to_string() }
    }
}

#[repr(C)]
pub struct TextString {
    data: *mut u8,
    size: usize,
}

impl TextString {
    pub const EMPTY: TextString = TextString { data: std::ptr::null_mut(), size: 0 };
}

impl From<String> for TextString {
    fn from(text: String) -> Self {
        if text.is_empty() {
            return TextString::EMPTY;
        }
        let bytes = text.into_bytes().into_boxed_slice();
        let size = bytes.len();
        TextString { data: Box::into_raw(bytes) as *mut u8, size }
    }
}

#[repr(C)]
pub struct TextIds {
    data: *mut i32,
    size: usize,
}

impl TextIds {
    pub const EMPTY: TextIds = TextIds { data: std::ptr::null_mut(), size: 0 };
}

impl From<Vec<i32>> for TextIds {
    fn from(ids: Vec<i32>) -> Self {
        if ids.is_empty() {
            return TextIds::EMPTY;
        }
        let ids = ids.into_boxed_slice();
        let size = ids.len();
        TextIds { data: Box::into_raw(ids) as *mut i32, size }
    }
}

/// # Safety
/// `text` came from this library and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_string_free(text: TextString) {
    if !text.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(text.data, text.size)));
    }
}

/// # Safety
/// `ids` came from this library and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_ids_free(ids: TextIds) {
    if !ids.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(ids.data, ids.size)));
    }
}

/// # Safety
/// `data` points to `size` readable elements, or `size` is 0.
pub unsafe fn lent<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

/// # Safety
/// As `lent`.
pub unsafe fn lent_str<'a>(data: *const u8, size: usize) -> Result<&'a str, Failure> {
    std::str::from_utf8(lent(data, size))
        .map_err(|e| Failure::refused(format!("text is not UTF-8 at byte {}", e.valid_up_to())))
}

thread_local! {
    static PANIC_MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}
static HOOK: Once = Once::new();

/// Runs `body`; a panic becomes PANIC with its message and place. The default hook would print to stderr; the
/// crate is linked into a library that never prints, with its own copy of the Rust runtime, so the hook is ours.
pub fn guarded<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let message = info.to_string();
            let _ = PANIC_MESSAGE.try_with(|slot| {
                if let Ok(mut slot) = slot.try_borrow_mut() {
                    *slot = message;
                }
            });
        }))
    });
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(payload) => {
            // Dropping an arbitrary payload may panic again.
            let _ = catch_unwind(AssertUnwindSafe(move || drop::<Box<dyn Any + Send>>(payload)));
            let message = PANIC_MESSAGE.try_with(|slot| slot.take()).unwrap_or_default();
            Err(Failure { code: PANIC, message })
        }
    }
}

/// Stores a result where the caller asked for it and returns the code.
///
/// # Safety
/// `out` and `error` are writable.
pub unsafe fn deliver<T, O>(result: Result<T, Failure>, out: *mut O, error: *mut TextString) -> i32
where
    O: From<T>,
{
    match result {
        Ok(value) => {
            out.write(value.into());
            OK
        }
        Err(failure) => {
            error.write(failure.message.into());
            failure.code
        }
    }
}
