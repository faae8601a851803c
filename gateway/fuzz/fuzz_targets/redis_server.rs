//! See `gateway::fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    gateway::fuzz::target("redis_server").expect("a target")(input);
});
