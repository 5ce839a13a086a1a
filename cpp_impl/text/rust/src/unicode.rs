// SPDX-License-Identifier: Apache-2.0
//! Full Unicode lower-casing, which the standard library has.

/// Lower-cases `length` bytes of UTF-8 (invalid bytes become U+FFFD), writes at most `capacity` bytes to `out` and
/// returns how many the whole result has. Nothing is written when it does not fit.
///
/// # Safety
/// `text` points to `length` readable bytes and `out` to `capacity` writable ones; they do not overlap.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_lowercase(text: *const u8, length: usize, out: *mut u8, capacity: usize) -> usize {
    let bytes: &[u8] = if length == 0 { &[] } else { std::slice::from_raw_parts(text, length) };
    let lower = String::from_utf8_lossy(bytes).to_lowercase();
    if lower.len() <= capacity && !lower.is_empty() {
        std::ptr::copy_nonoverlapping(lower.as_ptr(), out, lower.len());
    }
    lower.len()
}
