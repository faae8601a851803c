//! lockd/client
