//! How certificates name nodes and clients.
//!
//! One CA signs everything of a cell. A node's certificate carries the DNS names
//! [`NODE_SERVER_NAME`] (by which clients and peers check that they talk to a node) and
//! `N.node.lockd.internal`; a client's carries `NAME.client.lockd.internal` only, and an operator's
//! `NAME.operator.lockd.internal`. So a client's certificate can neither serve nor join the peers
//! nor change who they are, whatever else it may say.

use crate::types::NodeId;

/// The name that every node's certificate carries, and that every TLS client asks for.
pub const NODE_SERVER_NAME: &str = "node.lockd.internal";

/// Application error code with which a node closes the connection of a peer whose certificate
/// has the wrong role for it.
pub const CLOSE_WRONG_ROLE: u32 = 1;

/// Application error code with which a node closes the connection of a node of another cell.
pub const CLOSE_OTHER_CELL: u32 = 6;

/// Application error code with which a node closes the connection of a node whose disk is not the
/// one that the cell knows by its number: a copy, an old one, or a new one.
pub const CLOSE_OTHER_DISK: u32 = 7;

const NODE_SUFFIX: &str = ".node.lockd.internal";
const CLIENT_SUFFIX: &str = ".client.lockd.internal";
const OPERATOR_SUFFIX: &str = ".operator.lockd.internal";

/// Who a certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A node of the cell.
    Node(NodeId),
    /// A client, by name.
    Client(String),
    /// A client that may also change the members of the cell, by name.
    Operator(String),
}

impl Role {
    /// DNS names that a certificate of this role carries.
    #[must_use]
    pub fn dns_names(&self) -> Vec<String> {
        match self {
            Role::Node(id) => vec![NODE_SERVER_NAME.to_owned(), format!("{id}{NODE_SUFFIX}")],
            Role::Client(name) => vec![format!("{name}{CLIENT_SUFFIX}")],
            Role::Operator(name) => vec![format!("{name}{OPERATOR_SUFFIX}")],
        }
    }

    /// The role that a certificate with these DNS names has; `None` if it has none or several.
    #[must_use]
    pub fn from_dns_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Role> {
        let mut roles = names.into_iter().filter_map(Role::from_dns_name);
        let role = roles.next()?;
        roles.next().is_none().then_some(role)
    }

    /// The name by which the cell knows whoever shows this certificate: what sessions belong to.
    /// No two roles have the same.
    #[must_use]
    pub fn identity(&self) -> String {
        match self {
            Role::Node(id) => format!("node:{id}"),
            Role::Client(name) => name.clone(),
            Role::Operator(name) => format!("operator:{name}"),
        }
    }

    fn from_dns_name(name: &str) -> Option<Role> {
        if let Some(id) = name.strip_suffix(NODE_SUFFIX) {
            return id.parse().ok().map(|id| Role::Node(NodeId(id)));
        }
        if let Some(name) = name.strip_suffix(OPERATOR_SUFFIX) {
            return is_client_name(name).then(|| Role::Operator(name.to_owned()));
        }
        let name = name.strip_suffix(CLIENT_SUFFIX)?;
        is_client_name(name).then(|| Role::Client(name.to_owned()))
    }
}

/// Whether `name` may name a client in a certificate: one DNS label of 1 to 63 characters.
#[must_use]
pub fn is_client_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_survive_their_dns_names() {
        let operator = Role::Operator("night-shift".into());
        for role in [
            Role::Node(NodeId(3)),
            Role::Client("billing-7".into()),
            operator,
        ] {
            let names = role.dns_names();
            assert_eq!(
                Role::from_dns_names(names.iter().map(String::as_str)),
                Some(role)
            );
        }
    }

    #[test]
    fn no_client_has_the_identity_of_an_operator_or_a_node() {
        assert_eq!(Role::Client("a".into()).identity(), "a");
        assert_eq!(Role::Operator("a".into()).identity(), "operator:a");
        assert!(!is_client_name("operator:a") && !is_client_name("node:1"));
    }

    #[test]
    fn a_certificate_without_a_role_or_with_two_has_none() {
        assert_eq!(Role::from_dns_names([NODE_SERVER_NAME]), None);
        assert_eq!(Role::from_dns_names(["example.org"]), None);
        let two = ["1.node.lockd.internal", "a.client.lockd.internal"];
        assert_eq!(Role::from_dns_names(two), None);
        assert_eq!(Role::from_dns_names(["x.node.lockd.internal"]), None);
    }
}
