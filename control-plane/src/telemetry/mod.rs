//! What the control plane says about itself.

pub mod logs;
pub mod seldom;
