//! The policy store: versions of the policy document, the latest of which is published.
