//! stub
use std::path::Path;
#[derive(Clone, Debug)]
pub struct StoredPolicy {
    pub version: u64,
    pub text: String,
    pub etag: String,
    pub author: String,
    pub updated: u64,
}
pub struct PolicyStore;
pub enum Precondition {
    None,
    Etag(String),
}
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error("conflict")]
    Conflict { current: Option<String> },
}
impl PolicyStore {
    pub fn open(_: &Path) -> Self {
        Self
    }
    pub fn latest(&self) -> Option<StoredPolicy> {
        None
    }
    pub async fn put(&self, _text: String, _e: Precondition, _a: &str) -> Result<StoredPolicy, PutError> {
        Err(PutError::Conflict { current: None })
    }
}
