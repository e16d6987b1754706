//! Versions, conditions, and a disk that fails.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::InMemoryBackend;
use redb::{Builder, StorageBackend};

use super::*;

fn policy(text: &str) -> NewPolicy {
    NewPolicy { text: text.to_owned(), author: "ada".to_owned(), message: "why".to_owned() }
}

#[tokio::test]
async fn keeps_versions_across_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("made/here");
    let store = PolicyStore::open(&data_dir).await.unwrap();
    assert_eq!(store.latest(), None);
    let told = store.never_put();
    assert!(told.contains(data_dir.join("policy.redb").to_str().unwrap()), "{told}");
    assert!(told.contains("check data_dir"), "{told}");
    assert_eq!(store.history().await.unwrap(), []);
    let mut watch = store.watch();
    let text = "routes: []\r\n# exactly as given \u{1f3ae}\n";
    let first = store.put(policy(text), Precondition::None).await.unwrap();
    assert!(watch.has_changed().unwrap());
    assert_eq!(watch.borrow_and_update().latest(), Some(&first));
    assert_eq!((first.info.version, &*first.text, first.info.etag.len()), (1, text, 64));
    assert!(first.info.time > 1_700_000_000);
    let second = store.put(policy("b"), Precondition::Etag(first.info.etag.clone())).await.unwrap();
    drop((store, watch));

    let store = PolicyStore::open(&data_dir).await.unwrap();
    assert_eq!(store.latest(), Some(Arc::clone(&second)));
    assert_eq!(store.get(1).await.unwrap().as_ref(), Some(&*first));
    assert_eq!(store.get(3).await.unwrap(), None);
    assert_eq!(store.history().await.unwrap(), [second.info.clone(), first.info.clone()]);
}

#[tokio::test]
async fn puts_only_what_is_expected() {
    let directory = tempfile::tempdir().unwrap();
    let store = PolicyStore::open(directory.path()).await.unwrap();
    let etag = |text: &str| Precondition::Etag(text.to_owned());
    let Err(PutError::Conflict { current: None }) = store.put(policy("a"), etag("x")).await else {
        panic!("nothing is there to match")
    };
    store.put(policy("a"), Precondition::Exists).await.unwrap_err();
    let first = store.put(policy("a"), Precondition::Any).await.unwrap();
    // Whoever puts what is there, too, has to expect it.
    for (text, expected) in
        ["a", "b"].into_iter().flat_map(|text| [(text, Precondition::None), (text, etag("x"))])
    {
        let error = store.put(policy(text), expected).await.unwrap_err();
        assert!(error.to_string().contains("version 1 by ada has etag"), "{error}");
        let PutError::Conflict { current: Some(current) } = error else { panic!("{error}") };
        assert_eq!(current, first.info);
    }
    // The same again is no new version, as a repeated request expects.
    let watch = store.watch();
    for expected in [Precondition::Any, Precondition::Exists, etag(&first.info.etag)] {
        assert_eq!(store.put(policy("a"), expected).await.unwrap(), first);
    }
    assert!(!watch.has_changed().unwrap());
    // An older text is a new version: that is how one rolls back.
    store.put(policy("b"), Precondition::Any).await.unwrap();
    let third = store.put(policy("a"), Precondition::Any).await.unwrap();
    assert_eq!((third.info.version, &third.info.etag), (3, &first.info.etag));
}

#[tokio::test]
async fn of_puts_at_once_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = PolicyStore::open(directory.path()).await.unwrap();
    let first = store.put(policy("a"), Precondition::None).await.unwrap();
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (store, expected) = (store.clone(), Precondition::Etag(first.info.etag.clone()));
        puts.spawn(async move { store.put(policy(&number.to_string()), expected).await });
    }
    let won = puts.join_all().await.into_iter().flatten().count();
    assert_eq!((won, store.history().await.unwrap().len()), (1, 2));
}

#[tokio::test]
async fn keeps_the_last_hundred() {
    let directory = tempfile::tempdir().unwrap();
    let store = PolicyStore::open(directory.path()).await.unwrap();
    for number in 1..=KEPT_VERSIONS + 2 {
        store.put(policy(&number.to_string()), Precondition::Any).await.unwrap();
    }
    let history = store.history().await.unwrap();
    assert_eq!(history.first().unwrap().version, KEPT_VERSIONS + 2);
    assert_eq!((history.last().unwrap().version, history.len()), (3, 100));
    assert_eq!(store.get(2).await.unwrap(), None);
    assert_eq!(&*store.get(3).await.unwrap().unwrap().text, "3");
}

#[tokio::test]
async fn bounds_the_text() {
    let directory = tempfile::tempdir().unwrap();
    let store = PolicyStore::open(directory.path()).await.unwrap();
    store.put(policy(&"x".repeat(MAX_TEXT)), Precondition::Any).await.unwrap();
    let error = store.put(policy(&"x".repeat(MAX_TEXT + 1)), Precondition::Any).await.unwrap_err();
    assert!(matches!(error, PutError::TooLarge { bytes } if bytes == MAX_TEXT + 1));
}

#[tokio::test]
async fn names_the_file_that_it_cannot_use() {
    let directory = tempfile::tempdir().unwrap();
    let store = PolicyStore::open(directory.path()).await.unwrap();
    let error = PolicyStore::open(directory.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("policy.redb is in use by another process"), "{error}");
    drop(store);

    let path = directory.path().join("policy.redb");
    std::fs::write(&path, "no database").unwrap();
    let error = PolicyStore::open(directory.path()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("{} is damaged: ", path.display())), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"no database", "left as it was");
}

#[derive(Debug, Default)]
struct Disk {
    storage: InMemoryBackend,
    full: AtomicBool,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// A handle that redb may close while the disk stays.
#[derive(Debug)]
struct Handle(Arc<Disk>);

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.0.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.check()?;
        self.0.storage.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.check()?;
        self.0.storage.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.check()?;
        self.0.storage.write(offset, data)
    }
}

#[tokio::test]
async fn a_full_disk_is_survived_without_a_restart() {
    let disk = Arc::new(Disk { storage: InMemoryBackend::new(), full: AtomicBool::new(false) });
    let handles = Arc::clone(&disk);
    let opener = Box::new(move || Builder::new().create_with_backend(Handle(Arc::clone(&handles))));
    let store = Store::with_opener("disk/policy.redb".into(), opener).unwrap();
    let store = PolicyStore(Kind::Embedded(Arc::new(store)));
    let first = store.put(policy("a"), Precondition::None).await.unwrap();

    disk.full.store(true, Ordering::Relaxed);
    for text in ["b", "c"] {
        let error = store.put(policy(text), Precondition::Any).await.unwrap_err();
        assert!(matches!(error, PutError::Store(StoreError::Database { .. })), "{error}");
        assert!(error.to_string().starts_with("disk/policy.redb: "), "{error}");
        assert_eq!(store.latest(), Some(Arc::clone(&first)), "the last good stays");
    }

    disk.full.store(false, Ordering::Relaxed);
    let second = store.put(policy("d"), Precondition::Any).await.unwrap();
    assert_eq!(store.get(second.info.version).await.unwrap().as_ref(), Some(&*second));
    assert_eq!(store.latest(), Some(second));
}

/// What is told of the policy that may be stored.
fn trouble(store: &PolicyStore) -> Option<String> {
    store.watch().borrow().policy.trouble.as_ref().map(|trouble| trouble.text().to_owned())
}

#[tokio::test]
async fn a_file_that_is_lost_or_overwritten_takes_no_puts_and_is_told() {
    type Loss = fn(&Path) -> io::Result<()>;
    let losses: [(Loss, &str); 6] = [
        (|file| std::fs::remove_file(file), "the file is gone"),
        (|file| std::fs::remove_dir_all(file.parent().unwrap()), "the file is gone"),
        (|file| std::fs::write(file, ""), "somebody else has written"),
        (|file| std::fs::write(file, "garbage"), "somebody else has written"),
        (|file| std::fs::write(file, vec![7; std::fs::read(file)?.len()]), "somebody else"),
        (
            |file| {
                std::fs::copy(file, file.with_extension("copy"))?;
                std::fs::rename(file.with_extension("copy"), file)
            },
            "another file",
        ),
    ];
    for (lose, problem) in losses {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("data/policy.redb");
        let store = PolicyStore::open(file.parent().unwrap()).await.unwrap();
        let first = store.put(policy("a"), Precondition::Any).await.unwrap();
        lose(&file).unwrap();
        let followed = store.clone();
        let follow = tokio::spawn(async move { followed.follow().await });
        store.watch().wait_for(|held| held.policy.trouble.is_some()).await.unwrap();
        follow.abort();
        let error = store.put(policy("b"), Precondition::Any).await.unwrap_err();
        assert!(matches!(&error, PutError::Store(error) if error.is_unavailable()), "{error}");
        let told = trouble(&store).unwrap();
        assert!(told.contains(problem) && told.contains(file.to_str().unwrap()), "{told}");
        assert_eq!(store.latest(), Some(first), "what is in force stays");
    }
}

#[tokio::test]
async fn a_file_that_is_put_back_is_the_store_again() {
    let directory = tempfile::tempdir().unwrap();
    let (file, away) = (directory.path().join("policy.redb"), directory.path().join("away"));
    let store = PolicyStore::open(directory.path()).await.unwrap();
    store.put(policy("a"), Precondition::Any).await.unwrap();
    std::fs::rename(&file, &away).unwrap();
    store.put(policy("b"), Precondition::Any).await.unwrap_err();
    std::fs::rename(&away, &file).unwrap();
    let second = store.put(policy("b"), Precondition::Any).await.unwrap();
    assert_eq!((second.info.version, trouble(&store)), (2, None));
    drop(store);
    assert_eq!(PolicyStore::open(directory.path()).await.unwrap().latest(), Some(second));
}

#[tokio::test]
async fn a_database_that_panics_or_cannot_be_opened_again_is_told() {
    let disk = Arc::new(Disk { storage: InMemoryBackend::new(), full: AtomicBool::new(false) });
    let (handles, broken) = (Arc::clone(&disk), Arc::new(AtomicBool::new(false)));
    let breaks = Arc::clone(&broken);
    let opener = Box::new(move || {
        assert!(!breaks.load(Ordering::Relaxed), "a database that does not understand its file");
        Builder::new().create_with_backend(Handle(Arc::clone(&handles)))
    });
    let store = Store::with_opener("disk/policy.redb".into(), opener).unwrap();
    let store = PolicyStore(Kind::Embedded(Arc::new(store)));
    let first = store.put(policy("a"), Precondition::None).await.unwrap();
    disk.full.store(true, Ordering::Relaxed);
    broken.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        store.put(policy("b"), Precondition::Any).await.unwrap_err();
        assert!(trouble(&store).unwrap().contains("disk/policy.redb"));
    }
    assert_eq!(store.latest(), Some(first));
    disk.full.store(false, Ordering::Relaxed);
    broken.store(false, Ordering::Relaxed);
    store.put(policy("b"), Precondition::Any).await.unwrap();
    assert_eq!(trouble(&store), None);

    let guard = Guard::new(|_| panic!("inside a transaction"));
    let error = store.put_guarded(policy("c"), Precondition::Any, guard).await.unwrap_err();
    assert!(error.to_string().contains("Move the file away"), "{error}");
    store.put(policy("c"), Precondition::Any).await.unwrap();
}

#[tokio::test]
async fn what_was_never_put_in_consul_names_its_address_and_key() {
    let directory = tempfile::tempdir().unwrap();
    let config = ConsulConfig {
        address: "10.0.0.9:8500".to_owned(),
        token_file: None,
        ca_file: None,
        datacenter: String::new(),
        data_dir: directory.path().to_owned(),
    };
    let told = PolicyStore::consul(&config, "typo/", &prometheus::Registry::new()).unwrap().never_put();
    assert!(told.contains("in Consul at 10.0.0.9:8500, key typo/policy"), "{told}");
    assert!(told.contains("check policy.consul_prefix"), "{told}");
}
