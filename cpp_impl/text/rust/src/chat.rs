// SPDX-License-Identifier: Apache-2.0
//! Chat templates with the environment Hugging Face renders them in: trim_blocks, lstrip_blocks, loop controls,
//! Python string methods, json.dumps as `tojson`, raise_exception, strftime_now, {% generation %}.

use crate::boundary::{deliver, guarded, lent_str, Failure, TextString, EXCEPTION};
use crate::python_json::{dumps, Style};
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use std::ffi::{c_char, CString};
use std::fmt;

type Clock = unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> usize;

const NAME: &str = "chat template";
/// Instructions one rendering may take: a loop that never ends is refused, long conversations are not.
const FUEL: u64 = 10_000_000;
/// Calls within calls (macros); bounds the stack used on a host's thread.
const MAX_DEPTH: usize = 64;

pub struct Template {
    environment: Environment<'static>,
}

const _: () = {
    const fn assert_shareable<T: Send + Sync>() {}
    assert_shareable::<Template>();
};

#[repr(transparent)]
pub struct Handle(*mut Template);

impl From<Template> for Handle {
    fn from(template: Template) -> Self {
        Handle(Box::into_raw(Box::new(template)))
    }
}

/// Marks an error as the template's own raise_exception.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn tojson(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => {
            let indent = usize::try_from(value)?;
            if indent > 64 {
                return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent is above 64"));
            }
            Some(indent)
        }
    };
    let separators = kwargs.get::<Option<Vec<String>>>("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        None => ((if indent.is_some() { "," } else { ", " }).to_string(), ": ".to_string()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators needs two strings")),
    };
    let style = Style {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
    };
    kwargs.assert_all_used()?;
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "tojson: the value is undefined"));
    }
    let json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "tojson: not a JSON value").with_source(e))?;
    Ok(dumps(&json, &style))
}

/// Only conversions every C library knows: an unknown one is undefined behaviour in strftime.
fn checked_format(format: &str) -> Result<CString, Error> {
    let refuse = |why: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now('{format}'): {why}"));
    if format.len() > 256 {
        return Err(refuse("the format is longer than 256 bytes"));
    }
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            continue;
        }
        let mut conversion = characters.next();
        if conversion == Some('-') && cfg!(unix) {
            conversion = characters.next();
        }
        if !conversion.is_some_and(|c| "aAbBcCdDeFgGhHIjmMnprRStTuUVwWxXyYzZ%".contains(c)) {
            return Err(refuse("unknown conversion"));
        }
    }
    CString::new(format).map_err(|_| refuse("the format holds a NUL"))
}

fn strftime(clock: Clock, format: &str) -> Result<String, Error> {
    let c_format = checked_format(format)?;
    let mut buffer = vec![0u8; 4096];
    // SAFETY: the buffer is writable for its length and the clock writes at most that much.
    let written = unsafe { clock(c_format.as_ptr(), buffer.as_mut_ptr() as *mut c_char, buffer.len()) };
    buffer.truncate(written.min(4096));
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

/// {% generation %} ... {% endgeneration %} marks the assistant's tokens for training in Hugging Face and renders as
/// its body; {% if true %} does the same and keeps the tags' whitespace control.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let word = inner.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        match word {
            "generation" => out.push_str(&tag[..end + 2].replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag[..end + 2].replace("endgeneration", "endif")),
            _ => out.push_str(&tag[..end + 2]),
        }
        rest = &tag[end + 2..];
    }
    out.push_str(rest);
    out
}

fn describe(error: &Error) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    message
}

fn failure(error: Error) -> Failure {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(raised) = cause.downcast_ref::<Raised>() {
            return Failure { code: EXCEPTION, message: raised.0.clone() };
        }
        source = cause.source();
    }
    Failure::refused(describe(&error))
}

fn create(source: &str, clock: Clock) -> Result<Template, Failure> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: String| strftime(clock, &format));
    environment.add_template_owned(NAME, without_generation_tags(source)).map_err(failure)?;
    Ok(Template { environment })
}

fn render(template: &Template, variables: &str) -> Result<String, Failure> {
    let variables: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(variables).map_err(Failure::refused)?;
    let template = template.environment.get_template(NAME).map_err(failure)?;
    template.render(variables).map_err(failure)
}

/// # Safety
/// As polyad_text.h says.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_template_create(
    source: *const u8,
    size: usize,
    clock: Clock,
    out: *mut Handle,
    error: *mut TextString,
) -> i32 {
    let result = guarded(|| create(lent_str(source, size)?, clock));
    deliver(result, out, error)
}

/// # Safety
/// `chat` came from polyad_text_template_create, or is null.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_template_free(chat: *mut Template) {
    if !chat.is_null() {
        let chat = Box::from_raw(chat);
        let _ = guarded(move || {
            drop(chat);
            Ok(())
        });
    }
}

/// # Safety
/// As polyad_text.h says.
#[no_mangle]
pub unsafe extern "C" fn polyad_text_template_render(
    chat: *const Template,
    variables: *const u8,
    size: usize,
    out: *mut TextString,
    error: *mut TextString,
) -> i32 {
    let result = guarded(|| render(&*chat, lent_str(variables, size)?));
    deliver(result, out, error)
}
