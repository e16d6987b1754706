use std::fs;

use super::*;

const EVERY: Duration = Duration::from_millis(5);

/// The least module that passes; `more` makes another of it.
fn wasm(more: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) (i32.const 0))
            (data (i32.const 0) "realmgate_connections_routed_total{more}"))"#
    ))
    .unwrap()
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("filter.wasm")
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(self.file(), bytes).unwrap();
    }

    fn start(&self, delivery: ModuleDelivery) -> FilterModuleSource {
        let data_dir = self.folder.path().to_owned();
        let config = FilterModuleConfig { places: vec![self.file()], delivery, data_dir, look_every: EVERY };
        FilterModuleSource::new(config, &prometheus::Registry::new()).unwrap()
    }

    fn http(&self) -> FilterModuleSource {
        self.start(ModuleDelivery::Http("cp:1".to_owned()))
    }
}

fn reason(source: &FilterModuleSource) -> Option<&'static str> {
    source.content().problem.as_ref().map(|problem| problem.reason)
}

#[test]
fn a_module_is_pushed_only_when_it_is_good_and_the_last_good_one_outlives_a_restart() {
    let place = Place::new();
    let source = place.http();
    assert_eq!(
        *source.subscribe().borrow(),
        FilterModule { sha256: String::new(), location: ModuleLocation::Nowhere }
    );
    assert_eq!(reason(&source), Some("missing"));
    place.write(&wasm("1"));
    let good = place.http();
    assert_eq!(reason(&good), None);
    let pushed = good.subscribe().borrow().clone();
    assert_eq!(pushed.location, ModuleLocation::Http("cp:1".to_owned()));
    for (bytes, why) in [(&b""[..], "empty"), (b"hello", "not_wasm"), (&wasm("1")[..50], "malformed")] {
        place.write(bytes);
        let restarted = place.http();
        assert_eq!((reason(&restarted), restarted.subscribe().borrow().clone()), (Some(why), pushed.clone()));
        assert_eq!(restarted.content().bytes, wasm("1"));
    }
    fs::remove_file(place.file()).unwrap();
    let restarted = place.http();
    assert_eq!((reason(&restarted), restarted.subscribe().borrow().clone()), (Some("missing"), pushed));
    // A copy that is damaged is none.
    fs::write(place.folder.path().join(file::COPY), wasm("2")).unwrap();
    assert!(!place.http().content().is_known());
}

#[test]
fn by_path_a_file_that_only_proxies_may_have_is_named_and_one_that_is_no_good_is_not() {
    let place = Place::new();
    let location = |source: &FilterModuleSource| source.subscribe().borrow().location.clone();
    let named = ModuleLocation::Path(place.file().display().to_string());
    assert_eq!(location(&place.start(ModuleDelivery::Path)), named);
    place.write(b"no module");
    assert_eq!(location(&place.start(ModuleDelivery::Path)), ModuleLocation::Nowhere);
    place.write(&wasm("1"));
    let good = place.start(ModuleDelivery::Path).subscribe().borrow().clone();
    assert_eq!(good.location, named);
    place.write(b"no module");
    assert_eq!(*place.start(ModuleDelivery::Path).subscribe().borrow(), good, "what is said stays the same");
}

#[test]
fn a_file_is_read_when_it_has_stood_still_since_it_was_read_last() {
    let place = Place::new();
    let stamp = || file::stamp(&[place.file()]);
    let mut look = Look { seen: None, last: None };
    assert!(!look.is_due(stamp().as_ref()), "there is none");
    place.write(b"1");
    assert!(!look.is_due(stamp().as_ref()), "it has just come");
    assert!(look.is_due(stamp().as_ref()));
    look.seen = stamp();
    assert!(!look.is_due(stamp().as_ref()), "it was read");
    fs::remove_file(place.file()).unwrap();
    assert!(!look.is_due(None));
    assert!(look.is_due(None), "it is gone");
}

// The process begins to read while somebody still writes: the rest comes before the first look.
#[tokio::test]
async fn a_copy_that_ends_just_after_the_start_is_read_and_each_later_one() {
    let place = Place::new();
    place.write(&wasm("1")[..60]);
    let source = Arc::new(place.http());
    assert_eq!(reason(&source), Some("malformed"));
    place.write(&wasm("1"));
    let watching = tokio::spawn({
        let source = Arc::clone(&source);
        async move { source.watch().await }
    });
    let mut modules = source.subscribe();
    for content in ["1", "2"] {
        place.write(&wasm(content));
        modules.changed().await.unwrap();
        assert_eq!((reason(&source), &*source.content().bytes), (None, &*wasm(content)));
    }
    let pushed = modules.borrow_and_update().clone();
    place.write(b"");
    while reason(&source) != Some("empty") {
        tokio::time::sleep(EVERY).await;
    }
    fs::remove_file(place.file()).unwrap();
    while reason(&source) != Some("missing") {
        tokio::time::sleep(EVERY).await;
    }
    assert_eq!((modules.has_changed().unwrap(), &*source.content().bytes), (false, &*wasm("2")));
    place.write(&wasm("2"));
    while reason(&source).is_some() {
        tokio::time::sleep(EVERY).await;
    }
    assert_eq!(*modules.borrow(), pushed);
    watching.abort();
}
