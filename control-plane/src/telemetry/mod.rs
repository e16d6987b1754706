//! What the control plane says about itself.

pub mod logs;
#[cfg(test)]
mod metrics_doc;
pub mod seldom;
pub mod visible;
