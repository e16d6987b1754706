;; Waits for 8 bytes, does $first with them, and $each with every chunk that follows. host.rs adds both, further events, and
;; the end.
(module
  (import "env" "proxy_get_buffer_bytes"
    (func $get_buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_buffer_bytes"
    (func $set_buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_property"
    (func $set_property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_call_foreign_function"
    (func $call_foreign (param i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 3)
  (data (i32.const 1024) "set_envoy_filter_state")
  (data (i32.const 1088) "\0a\17envoy.tcp_proxy.cluster\12\04game")
  (data (i32.const 1152) "realmgate.log")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (i32.const 64))
  (func $place (param $id i32) (result i32)
    (i32.add (i32.const 65536) (i32.and (local.get $id) (i32.const 0xffff))))
  (func (export "proxy_on_new_connection") (param $id i32) (result i32)
    (i32.store8 (call $place (local.get $id)) (i32.const 0))
    (i32.const 1))
  (func $read (param $buffer i32) (result i32)
    (call $get_buffer (local.get $buffer) (i32.const 0) (i32.const 8) (i32.const 0) (i32.const 4)))
  (func (export "proxy_on_downstream_data") (param $id i32) (param $size i32) (param $end i32) (result i32)
    (if (i32.load8_u (call $place (local.get $id))) (then
      (call $each (i32.const 2))
      (return (i32.const 0))))
    (if (i32.lt_u (local.get $size) (i32.const 8)) (then (return (i32.const 1))))
    (call $first)
    (i32.store8 (call $place (local.get $id)) (i32.const 1))
    (i32.const 0))
