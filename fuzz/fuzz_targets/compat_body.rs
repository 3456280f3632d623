#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kielink::fuzzing::compat_body(data));
