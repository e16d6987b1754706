//! Tests of the server by the statements of the protocol that it keeps.
