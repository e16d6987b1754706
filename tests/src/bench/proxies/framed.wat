;; The least that a wasm filter needs to exchange headers: what it costs is what Envoy's wasm host costs for two looks at
;; data and two changes of it. It routes as minimal.wat does, then puts 29 bytes in the place of each 8 of a client, and 8
;; in the place of each 29 of a game server, a chunk at a time with one read and one write. It checks nothing, and takes
;; headers for whole and no further than 4 KiB into a chunk, as those of the bench are.
(module
  (import "env" "proxy_get_buffer_bytes"
    (func $get_buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_buffer_bytes"
    (func $set_buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_call_foreign_function"
    (func $call_foreign (param i32 i32 i32 i32 i32 i32) (result i32)))
  ;; 0: results; 1024: texts; 4096: what the host writes; 16384: what it is given. Then by the low bits of a connection's
  ;; id, from 0x10000: whether it is routed, a byte; from 0x20000 and 0x60000: what is still to come of a body, each way.
  (memory (export "memory") 10)
  (data (i32.const 1024) "set_envoy_filter_state")
  ;; path "envoy.tcp_proxy.cluster", value "game"
  (data (i32.const 1088) "\0a\17envoy.tcp_proxy.cluster\12\04game")
  ;; the header to game servers, of session 1: length, message id and server id are written over
  (data (i32.const 2048) "\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\01\01\00\00\00\00\00\00\00")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (i32.const 4096))
  (func $slot (param $id i32) (result i32) (i32.and (local.get $id) (i32.const 0xffff)))
  (func (export "proxy_on_new_connection") (param $id i32) (result i32)
    (local $slot i32)
    (local.set $slot (call $slot (local.get $id)))
    (i32.store8 offset=0x10000 (local.get $slot) (i32.const 0))
    (local.set $slot (i32.shl (local.get $slot) (i32.const 2)))
    (i32.store offset=0x20000 (local.get $slot) (i32.const 0))
    (i32.store offset=0x60000 (local.get $slot) (i32.const 0))
    (i32.const 1))
  (func (export "proxy_on_downstream_data") (param $id i32) (param $size i32) (param $end i32) (result i32)
    (local $slot i32)
    (local.set $slot (call $slot (local.get $id)))
    (if (i32.eqz (i32.load8_u offset=0x10000 (local.get $slot))) (then
      (if (i32.lt_u (local.get $size) (i32.const 8)) (then (return (i32.const 1))))
      (if (call $call_foreign
            (i32.const 1024) (i32.const 22) (i32.const 1088) (i32.const 31) (i32.const 8) (i32.const 12))
        (then (return (i32.const 1))))
      (i32.store8 offset=0x10000 (local.get $slot) (i32.const 1))))
    (call $exchange (i32.const 2) (local.get $size) (i32.const 8) (i32.const 29)
      (i32.add (i32.const 0x20000) (i32.shl (local.get $slot) (i32.const 2)))))
  (func (export "proxy_on_upstream_data") (param $id i32) (param $size i32) (param $end i32) (result i32)
    (call $exchange (i32.const 3) (local.get $size) (i32.const 29) (i32.const 8)
      (i32.add (i32.const 0x60000) (i32.shl (call $slot (local.get $id)) (i32.const 2)))))
  ;; Headers of $old bytes become headers of $new bytes; $left is where the rest of the body is counted.
  (func $exchange
    (param $buffer i32) (param $size i32) (param $old i32) (param $new i32) (param $left i32) (result i32)
    (local $body i32) (local $from i32) (local $to i32) (local $end i32)
    (local.set $body (i32.load (local.get $left)))
    (if (i32.le_u (local.get $size) (local.get $body)) (then
      (i32.store (local.get $left) (i32.sub (local.get $body) (local.get $size)))
      (return (i32.const 0))))
    (local.set $end (select (local.get $size) (i32.const 4096) (i32.lt_u (local.get $size) (i32.const 4096))))
    (if (call $get_buffer (local.get $buffer) (i32.const 0) (local.get $end) (i32.const 0) (i32.const 4))
      (then (return (i32.const 1))))
    (local.set $from (i32.const 4096))
    (local.set $to (i32.const 16384))
    (local.set $end (i32.add (local.get $end) (i32.const 4096)))
    (loop $messages
      (memory.copy (local.get $to) (local.get $from) (local.get $body))
      (local.set $from (i32.add (local.get $from) (local.get $body)))
      (local.set $to (i32.add (local.get $to) (local.get $body)))
      (if (i32.eq (local.get $old) (i32.const 8))
        (then
          (local.set $body (i32.load16_u (local.get $from)))
          (memory.copy (local.get $to) (i32.const 2048) (i32.const 29))
          (i32.store (local.get $to) (i32.add (local.get $body) (i32.const 9)))
          (i32.store offset=4 (local.get $to) (i32.load16_u offset=2 (local.get $from))))
        (else
          (local.set $body (i32.sub (i32.load (local.get $from)) (i32.const 9)))
          (i32.store16 (local.get $to) (local.get $body))
          (i32.store16 offset=2 (local.get $to) (i32.load offset=4 (local.get $from)))
          (i32.store offset=4 (local.get $to) (i32.const 0))))
      (local.set $from (i32.add (local.get $from) (local.get $old)))
      (local.set $to (i32.add (local.get $to) (local.get $new)))
      (br_if $messages (i32.lt_u (i32.add (local.get $from) (local.get $body)) (local.get $end))))
    ;; The last body stays where it is.
    (local.set $from (i32.sub (local.get $from) (i32.const 4096)))
    (i32.store (local.get $left)
      (i32.sub (local.get $body) (i32.sub (local.get $size) (local.get $from))))
    (call $set_buffer (local.get $buffer) (i32.const 0) (local.get $from)
      (i32.const 16384) (i32.sub (local.get $to) (i32.const 16384)))))
