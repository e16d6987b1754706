//! A small proxy-wasm host: runs the filter's module the way Envoy does, in wasmtime.
//!
//! Only what the filter calls is implemented; any other import traps, which fails the test.

mod imports;

use std::sync::{Arc, Mutex, OnceLock};

use imports::{Connection, Host, Shared, link};
use realmgate_tests::scenario::{Before, Outcome, Scenario, Step};
use realmgate_tests::{Failure, parts};
use serde_json::Value;
use wasmtime::{Engine, Instance, Linker, Module, Store};

/// What becomes of data that does not pass.
pub(crate) const PAUSE: u32 = 1;
const CLOSED_HERE: u32 = 1;
const CLOSED_THERE: u32 = 2;

/// Compiles the module, once for all tests.
pub(crate) fn load() -> Result<Module, Failure> {
    static MODULE: OnceLock<Result<Module, Failure>> = OnceLock::new();
    let compile = || {
        let path = parts::FILTER.find()?;
        Module::from_file(&Engine::default(), &path).map_err(Failure::because(path.display()))
    };
    MODULE.get_or_init(compile).clone()
}

/// Runs a scenario in a VM of its own.
pub(crate) fn run(module: &Module, scenario: &Scenario) -> Result<Outcome, Failure> {
    const ROOT: u32 = 1;
    const CONNECTION: u32 = 2;
    let mut vm = Vm::start(module)?;
    vm.root(ROOT)?;
    if !vm.configure(ROOT, &scenario.config)? {
        let told = vm.store.data().log.last().cloned().unwrap_or_default();
        let told = told.strip_prefix("realmgate: configuration refused: ").unwrap_or(&told);
        return Ok(Outcome { config_refused: Some(told.to_owned()), ..Outcome::default() });
    }
    vm.come_from(scenario.source());
    let mut others = CONNECTION + 1..CONNECTION + 1;
    for before in &scenario.before {
        match before {
            Before::Open(count) => {
                for id in others.end..others.end + count {
                    vm.open(id, ROOT)?;
                }
                others.end += count;
            }
            Before::Close(count) => others.by_ref().take(*count as usize).try_for_each(|id| vm.leave(id))?,
            Before::WaitMs(ms) => vm.wait(*ms)?,
        }
    }
    vm.open(CONNECTION, ROOT)?;
    for step in &scenario.steps {
        match step {
            Step::Send(bytes) => vm.send(CONNECTION, bytes)?,
            Step::Reply(bytes) => vm.reply(CONNECTION, bytes)?,
            Step::EndStream => vm.data(CONNECTION, true)?,
            Step::WaitMs(ms) => vm.wait(*ms)?,
            Step::Configure(config) | Step::ConfigureBad(config) => {
                let taken = vm.configure(ROOT, config)?;
                if taken == matches!(step, Step::ConfigureBad(_)) {
                    return Err(Failure::new(format!("{}: configuration taken: {taken}", scenario.name)));
                }
            }
        }
    }
    let outcome = vm.outcome(CONNECTION);
    vm.leave(CONNECTION)?;
    others.try_for_each(|id| vm.leave(id))?;
    for gauge in ["realmgate_connections_awaiting_header", "realmgate_sessions_active"] {
        if vm.metric(gauge) != 0 {
            return Err(Failure::new(format!("{}: a connection is left in {gauge}", scenario.name)));
        }
    }
    Ok(outcome)
}

/// What the VMs of a process share.
pub(crate) type Process = Arc<Mutex<Shared>>;

/// A process with such chance: what it draws follows from `seed`.
pub(crate) fn process(seed: u64) -> Process {
    Arc::new(Mutex::new(Shared::of_chance(seed)))
}

/// A VM with the filter in it.
pub(crate) struct Vm {
    store: Store<Host>,
    instance: Instance,
}

impl Vm {
    /// Instantiates the module in a process of its own.
    pub(crate) fn start(module: &Module) -> Result<Self, Failure> {
        Self::start_in(module, Arc::default())
    }

    /// Instantiates the module beside others of a process.
    pub(crate) fn start_in(module: &Module, process: Process) -> Result<Self, Failure> {
        let mut store = Store::new(module.engine(), Host { shared: process, ..Host::default() });
        let mut linker = Linker::new(module.engine());
        link(&mut linker).map_err(Failure::because("linking"))?;
        linker.define_unknown_imports_as_traps(module).map_err(Failure::because("linking"))?;
        let instance = linker.instantiate(&mut store, module).map_err(Failure::because("instantiating"))?;
        let mut vm = Self { store, instance };
        vm.call::<(), ()>(0, "_initialize", ())?;
        Ok(vm)
    }

    /// Creates a root context of a listener's filter.
    pub(crate) fn root(&mut self, id: u32) -> Result<(), Failure> {
        self.root_of(id, "realmgate")
    }

    /// Creates a root context of this part of the filter.
    pub(crate) fn root_of(&mut self, id: u32, part: &'static str) -> Result<(), Failure> {
        self.store.data_mut().roots.insert(id, part);
        self.call::<(u32, u32), ()>(id, "proxy_on_context_create", (id, 0))
    }

    /// Deletes a root context, like one whose configuration was replaced and whose last connection has gone.
    pub(crate) fn end_root(&mut self, id: u32) -> Result<(), Failure> {
        self.call::<u32, ()>(id, "proxy_on_delete", id)?;
        self.store.data_mut().roots.remove(&id);
        self.close_those_to_close()
    }

    /// Root contexts whose timers are armed, and whether each of them lives.
    pub(crate) fn timers(&self) -> Vec<(u32, bool)> {
        let host = self.store.data();
        host.timers.keys().map(|root| (*root, host.roots.contains_key(root))).collect()
    }

    /// Hands a root context a configuration; whether it was taken.
    pub(crate) fn configure(&mut self, root: u32, config: &Value) -> Result<bool, Failure> {
        self.store.data_mut().configuration = config.to_string().into_bytes();
        let size = u32::try_from(self.store.data().configuration.len()).map_err(Failure::because("size"))?;
        Ok(self.call::<(u32, u32), u32>(root, "proxy_on_configure", (root, size))? == 1)
    }

    /// Connections come from this address from now on.
    pub(crate) fn come_from(&mut self, source: Option<String>) {
        self.store.data_mut().source = source;
    }

    /// A connection comes.
    pub(crate) fn open(&mut self, id: u32, root: u32) -> Result<(), Failure> {
        self.create(id, root)?;
        // Anything else lets tcp_proxy choose its cluster before the header is there.
        match self.raise::<u32, u32>("proxy_on_new_connection", id, id)? {
            PAUSE => Ok(()),
            _ => Err(Failure::new("a new connection is not held back")),
        }
    }

    /// The context of a connection comes. One of this number that has gone is forgotten.
    pub(crate) fn create(&mut self, id: u32, root: u32) -> Result<(), Failure> {
        let host = self.store.data_mut();
        if host.connections.get(&id).is_none_or(|connection| connection.gone) {
            let source = host.source.clone();
            host.connections.insert(id, Connection { root, source, ..Connection::default() });
        }
        self.call::<(u32, u32), ()>(id, "proxy_on_context_create", (id, root))
    }

    /// Its client sends bytes.
    pub(crate) fn send(&mut self, id: u32, bytes: &[u8]) -> Result<(), Failure> {
        if self.connection(id).gone { Ok(()) } else { self.downstream(id, bytes, false) }
    }

    /// The filter is shown what is held back.
    pub(crate) fn data(&mut self, id: u32, end_of_stream: bool) -> Result<(), Failure> {
        if self.connection(id).gone { Ok(()) } else { self.downstream(id, &[], end_of_stream) }
    }

    /// As [`Self::send`], also for a connection that has gone.
    pub(crate) fn downstream(&mut self, id: u32, bytes: &[u8], end_of_stream: bool) -> Result<(), Failure> {
        self.connection(id).held.extend_from_slice(bytes);
        let size = u32::try_from(self.connection(id).held.len()).map_err(Failure::because("size"))?;
        let arguments = (id, size, u32::from(end_of_stream));
        let action = self.call::<(u32, u32, u32), u32>(id, "proxy_on_downstream_data", arguments)?;
        if action != PAUSE {
            let connection = self.connection(id);
            connection.outcome.to_backend.append(&mut connection.held);
        }
        self.close_those_to_close()
    }

    /// Its server sends bytes.
    pub(crate) fn reply(&mut self, id: u32, bytes: &[u8]) -> Result<(), Failure> {
        if self.connection(id).gone { Ok(()) } else { self.upstream(id, bytes, false) }
    }

    /// As [`Self::reply`], also for a connection that has gone.
    pub(crate) fn upstream(&mut self, id: u32, bytes: &[u8], end_of_stream: bool) -> Result<(), Failure> {
        self.connection(id).replied.extend_from_slice(bytes);
        let size = u32::try_from(bytes.len()).map_err(Failure::because("size"))?;
        let arguments = (id, size, u32::from(end_of_stream));
        let action = self.call::<(u32, u32, u32), u32>(id, "proxy_on_upstream_data", arguments)?;
        let connection = self.connection(id);
        let mut data = std::mem::take(&mut connection.replied);
        // Envoy keeps nothing that is held back on this way.
        if action != PAUSE {
            connection.outcome.to_client.append(&mut data);
        }
        self.close_those_to_close()
    }

    /// Any event of a context, whether there is such a context or not.
    pub(crate) fn raise<Arguments: wasmtime::WasmParams, Results: wasmtime::WasmResults>(
        &mut self,
        event: &str,
        context: u32,
        arguments: Arguments,
    ) -> Result<Results, Failure> {
        let result = self.call(context, event, arguments)?;
        self.close_those_to_close()?;
        Ok(result)
    }

    /// Its context is deleted, once more if it was already.
    pub(crate) fn delete(&mut self, id: u32) -> Result<(), Failure> {
        self.connection(id).gone = true;
        self.raise::<u32, ()>("proxy_on_delete", id, id)
    }

    /// From now on so many calls of the module are refused; gives how many were left of those before.
    pub(crate) fn refuse(&mut self, calls: u32) -> u32 {
        std::mem::replace(&mut self.store.data_mut().refusals, calls)
    }

    /// Its client has proven to be a service.
    pub(crate) fn prove(&mut self, id: u32, service: &str) {
        self.connection(id).peer = Some(format!("spiffe://x.consul/ns/default/dc/aws/svc/{service}"));
    }

    /// From now on it stays open although the filter closes it.
    pub(crate) fn linger(&mut self, id: u32) {
        self.connection(id).lingers = true;
    }

    /// Its client leaves.
    pub(crate) fn leave(&mut self, id: u32) -> Result<(), Failure> {
        self.end(id, CLOSED_THERE)
    }

    /// Time passes.
    pub(crate) fn wait(&mut self, ms: u32) -> Result<(), Failure> {
        let until = self.store.data().elapsed_ms + u64::from(ms);
        loop {
            let host = self.store.data_mut();
            let next = host.timers.iter().map(|(&root, timer)| (timer.due_ms, root)).min();
            let due = next.filter(|&(due, _)| due <= until);
            let now = due.map_or(until, |(due, _)| due);
            host.shared.lock().unwrap().now_ms += now - host.elapsed_ms;
            host.elapsed_ms = now;
            let Some((_, root)) = due else { return Ok(()) };
            if host.roots.contains_key(&root) {
                self.call::<u32, ()>(root, "proxy_on_tick", root)?;
                self.close_those_to_close()?;
            }
            let host = self.store.data_mut();
            if let Some(timer) = host.timers.get(&root).filter(|timer| timer.due_ms <= now) {
                host.set_timer(root, timer.period_ms);
            }
        }
    }

    /// What came of a connection.
    pub(crate) fn outcome(&mut self, id: u32) -> Outcome {
        self.connection(id).outcome.clone()
    }

    /// What came of a connection, which is forgotten.
    pub(crate) fn take(&mut self, id: u32) -> Outcome {
        self.store.data_mut().connections.remove(&id).unwrap_or_default().outcome
    }

    /// Names of the metrics that the host knows.
    pub(crate) fn metrics(&self) -> Vec<&str> {
        self.store.data().metrics.iter().map(|(name, _)| &**name).collect()
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> i64 {
        self.store.data().metrics.iter().filter(|(known, _)| known == name).map(|(_, value)| value).sum()
    }

    /// How often the module has called the host.
    pub(crate) fn calls(&self) -> usize {
        self.store.data().calls
    }

    fn connection(&mut self, id: u32) -> &mut Connection {
        self.store.data_mut().connections.entry(id).or_default()
    }

    fn end(&mut self, id: u32, by: u32) -> Result<(), Failure> {
        if std::mem::replace(&mut self.connection(id).gone, true) {
            return Ok(());
        }
        self.call::<(u32, u32), ()>(id, "proxy_on_downstream_connection_close", (id, by))?;
        self.call::<u32, ()>(id, "proxy_on_delete", id)
    }

    /// Like Envoy, which closes when the callback is over.
    fn close_those_to_close(&mut self) -> Result<(), Failure> {
        let connections = self.store.data().connections.iter();
        let closing = connections.filter(|(_, it)| it.to_close && !it.lingers && !it.gone);
        let closing: Vec<u32> = closing.map(|(&id, _)| id).collect();
        closing.into_iter().try_for_each(|id| self.end(id, CLOSED_HERE))
    }

    fn call<Arguments: wasmtime::WasmParams, Results: wasmtime::WasmResults>(
        &mut self,
        context: u32,
        name: &str,
        arguments: Arguments,
    ) -> Result<Results, Failure> {
        self.store.data_mut().current = context;
        self.store.data_mut().effective = None;
        let function = self.instance.get_typed_func::<Arguments, Results>(&mut self.store, name);
        let function = function.map_err(Failure::because(name))?;
        // The alternate form tells of the trap and where it happened.
        function.call(&mut self.store, arguments).map_err(|error| Failure::new(format!("{name}: {error:?}")))
    }
}
