// SPDX-License-Identifier: Apache-2.0
//! The tokenizer calls.

use crate::boundary::{deliver, guarded, lent, lent_str, Failure, TextIds, TextString};
use tokenizers::Tokenizer;

/// What C holds: a pointer to an immutable tokenizer.
#[repr(transparent)]
pub struct Handle(*mut Tokenizer);

impl From<Tokenizer> for Handle {
    fn from(tokenizer: Tokenizer) -> Self {
        Handle(Box::into_raw(Box::new(tokenizer)))
    }
}

const _: () = {
    const fn assert_shareable<T: Send + Sync>() {}
    assert_shareable::<Tokenizer>();
};

fn create(json: &[u8]) -> Result<Tokenizer, Failure> {
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(Failure::refused)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(Failure::refused)?;
    if tokenizer.get_vocab(true).values().any(|&id| id > i32::MAX as u32) {
        return Err(Failure::refused("a token id does not fit in 31 bits"));
    }
    Ok(tokenizer)
}

/// # Safety
/// As polyad_text.h says.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_tokenizer_create(
    json: *const u8,
    size: usize,
    out: *mut Handle,
    error: *mut TextString,
) -> i32 {
    let result = guarded(|| create(lent(json, size)));
    deliver(result, out, error)
}

/// # Safety
/// `tokenizer` came from polyad_text_tokenizer_create, or is null.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        let tokenizer = Box::from_raw(tokenizer);
        let _ = guarded(move || {
            drop(tokenizer);
            Ok(())
        });
    }
}

/// # Safety
/// As polyad_text.h says.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_encode(
    tokenizer: *const Tokenizer,
    text: *const u8,
    size: usize,
    add_special: i32,
    out: *mut TextIds,
    error: *mut TextString,
) -> i32 {
    let result = guarded(|| {
        let text = lent_str(text, size)?;
        let encoding = (*tokenizer).encode_fast(text, add_special != 0).map_err(Failure::refused)?;
        Ok(encoding.get_ids().iter().map(|&id| id as i32).collect::<Vec<i32>>())
    });
    deliver(result, out, error)
}

/// # Safety
/// As polyad_text.h says.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_decode(
    tokenizer: *const Tokenizer,
    ids: *const i32,
    count: usize,
    skip_special: i32,
    out: *mut TextString,
    error: *mut TextString,
) -> i32 {
    let result = guarded(|| {
        let ids: Vec<u32> = lent(ids, count).iter().map(|&id| id as u32).collect();
        (*tokenizer).decode(&ids, skip_special != 0).map_err(Failure::refused)
    });
    deliver(result, out, error)
}

/// # Safety
/// As polyad_text.h says.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_token_id(tokenizer: *const Tokenizer, token: *const u8, size: usize) -> i64 {
    guarded(|| Ok((*tokenizer).token_to_id(lent_str(token, size)?)))
        .ok()
        .flatten()
        .map_or(-1, i64::from)
}

/// # Safety
/// As polyad_text.h says.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_vocab_size(tokenizer: *const Tokenizer) -> usize {
    guarded(|| Ok((*tokenizer).get_vocab_size(true))).unwrap_or(0)
}
