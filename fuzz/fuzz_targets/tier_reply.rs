#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kielink::fuzzing::tier_reply(data));
