#![no_main]

#[expect(dead_code, reason = "the other target has its own part")]
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|body: &[u8]| properties::request_scanner(body));
