//! The least filter that `proxy_wasm` can be made to be: reads 8 bytes of a connection and names a cluster. Benchmarks hold
//! the real one against it; `make bench` builds it as a module of its own.

#[cfg(target_arch = "wasm32")]
mod plugin {
    use proxy_wasm::hostcalls;
    use proxy_wasm::traits::{Context, RootContext, StreamContext};
    use proxy_wasm::types::{Action, BufferType, ContextType};

    /// `SetEnvoyFilterStateArguments` with path and value.
    const NAME: &[u8] = b"\x0a\x17envoy.tcp_proxy.cluster\x12\x04game";

    #[unsafe(no_mangle)]
    extern "C" fn _initialize() {
        proxy_wasm::set_root_context(|_| Box::new(Root));
    }

    struct Root;

    impl Context for Root {}

    impl RootContext for Root {
        fn create_stream_context(&self, _: u32) -> Option<Box<dyn StreamContext>> {
            Some(Box::new(Connection { is_routed: false }))
        }

        fn get_type(&self) -> Option<ContextType> {
            Some(ContextType::StreamContext)
        }
    }

    struct Connection {
        is_routed: bool,
    }

    impl Context for Connection {}

    impl StreamContext for Connection {
        fn on_new_connection(&mut self) -> Action {
            Action::Pause
        }

        fn on_downstream_data(&mut self, size: usize, _: bool) -> Action {
            if !self.is_routed && size >= 8 {
                let header = hostcalls::get_buffer(BufferType::DownstreamData, 0, 8).ok().flatten();
                let named = hostcalls::call_foreign_function("set_envoy_filter_state", Some(NAME));
                self.is_routed = header.is_some() && named.is_ok();
            }
            if self.is_routed { Action::Continue } else { Action::Pause }
        }
    }
}
