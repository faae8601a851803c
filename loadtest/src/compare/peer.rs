//! What can be compared: lockd, and the ways in which people take locks without it.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::keeper::Kept;

/// A way of taking a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// A cell of three nodes.
    Lockd,
    /// `SET NX PX` in a Redis server that keeps nothing on disk.
    Redis,
    /// The same in one that syncs its append-only file every second.
    RedisEverysec,
    /// The same in one that syncs its append-only file before it answers.
    RedisAlways,
    /// `SETNX`, then `EXPIRE`.
    RedisSetnxExpire,
    /// `SETNX` of a time, and `GETSET` when it has passed.
    RedisGetset,
    /// Redlock over five Redis servers.
    Redlock,
    /// `pg_advisory_lock`.
    PostgresAdvisory,
    /// `SELECT ... FOR UPDATE` in PostgreSQL.
    PostgresForUpdate,
    /// `GET_LOCK`.
    MariadbGetLock,
    /// A row that whoever holds the lock has inserted.
    MariadbInsert,
    /// `SELECT ... FOR UPDATE` in MariaDB.
    MariadbForUpdate,
    /// A lease, a transaction and watches in three nodes of etcd.
    Etcd,
    /// One ephemeral node that everybody watches, in three servers of ZooKeeper.
    ZookeeperHerd,
    /// Sequential ephemeral nodes, each of which is watched by the next.
    ZookeeperCurator,
    /// Grants what is held, to prove that the oracle sees it.
    Liar,
}

/// Where a peer's locks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// A cell, by its `client.toml`.
    Cell,
    /// Servers of another project, by their URLs.
    Kept(Kept),
}

impl Peer {
    /// Everything that is compared, lockd first.
    pub const ALL: [Peer; 15] = [
        Peer::Lockd,
        Peer::Etcd,
        Peer::ZookeeperHerd,
        Peer::ZookeeperCurator,
        Peer::Redis,
        Peer::RedisEverysec,
        Peer::RedisAlways,
        Peer::RedisSetnxExpire,
        Peer::RedisGetset,
        Peer::Redlock,
        Peer::PostgresAdvisory,
        Peer::PostgresForUpdate,
        Peer::MariadbGetLock,
        Peer::MariadbInsert,
        Peer::MariadbForUpdate,
    ];

    /// Its name, on the command line too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Peer::Lockd => "lockd",
            Peer::Redis => "redis",
            Peer::RedisEverysec => "redis-everysec",
            Peer::RedisAlways => "redis-always",
            Peer::RedisSetnxExpire => "redis-setnx-expire",
            Peer::RedisGetset => "redis-getset",
            Peer::Redlock => "redlock",
            Peer::PostgresAdvisory => "postgres-advisory",
            Peer::PostgresForUpdate => "postgres-for-update",
            Peer::MariadbGetLock => "mariadb-get-lock",
            Peer::MariadbInsert => "mariadb-insert",
            Peer::MariadbForUpdate => "mariadb-for-update",
            Peer::Etcd => "etcd",
            Peer::ZookeeperHerd => "zookeeper-herd",
            Peer::ZookeeperCurator => "zookeeper-curator",
            Peer::Liar => "liar",
        }
    }

    /// Where its locks are.
    #[must_use]
    pub fn service(self) -> Service {
        match self {
            Peer::Lockd => Service::Cell,
            Peer::Redis | Peer::RedisSetnxExpire | Peer::RedisGetset | Peer::Liar => {
                Service::Kept(Kept::Redis)
            }
            Peer::RedisEverysec => Service::Kept(Kept::RedisEverysec),
            Peer::RedisAlways => Service::Kept(Kept::RedisAlways),
            Peer::Redlock => Service::Kept(Kept::Redlock),
            Peer::PostgresAdvisory | Peer::PostgresForUpdate => Service::Kept(Kept::Postgres),
            Peer::MariadbGetLock | Peer::MariadbInsert | Peer::MariadbForUpdate => {
                Service::Kept(Kept::Mariadb)
            }
            Peer::Etcd => Service::Kept(Kept::Etcd),
            Peer::ZookeeperHerd | Peer::ZookeeperCurator => Service::Kept(Kept::Zookeeper),
        }
    }

    /// Where a grant is when its holder learns of it.
    #[must_use]
    pub fn grant_is_in(self) -> &'static str {
        match self {
            Peer::Lockd | Peer::Etcd | Peer::ZookeeperHerd | Peer::ZookeeperCurator => {
                "2 of 3 disks"
            }
            Peer::RedisAlways | Peer::MariadbInsert => "1 disk",
            Peer::RedisEverysec => "memory, in 1 s 1 disk",
            Peer::Redlock => "3 of 5 memories",
            Peer::PostgresAdvisory | Peer::MariadbGetLock => "memory, a connection",
            Peer::PostgresForUpdate | Peer::MariadbForUpdate => "memory, a transaction",
            Peer::Redis | Peer::RedisSetnxExpire | Peer::RedisGetset | Peer::Liar => "memory",
        }
    }

    /// Whether its grants carry a number that rises, by which the oracle judges them too.
    #[must_use]
    pub fn has_tokens(self) -> bool {
        matches!(
            self,
            Peer::Lockd | Peer::Etcd | Peer::ZookeeperHerd | Peer::ZookeeperCurator
        )
    }
}

impl ValueEnum for Peer {
    fn value_variants<'a>() -> &'a [Peer] {
        const WITH_LIAR: [Peer; Peer::ALL.len() + 1] = {
            let mut all = [Peer::Liar; Peer::ALL.len() + 1];
            let mut index = 0;
            while index < Peer::ALL.len() {
                all[index] = Peer::ALL[index];
                index += 1;
            }
            all
        };
        &WITH_LIAR
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).hide(*self == Peer::Liar))
    }
}

impl Service {
    /// Its name, on the command line too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Service::Cell => "lockd",
            Service::Kept(kept) => kept.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_but_the_liar_is_offered_by_its_name() {
        let mut offered = Vec::new();
        for peer in Peer::value_variants() {
            let value = peer.to_possible_value().unwrap();
            assert_eq!(Peer::from_str(value.get_name(), false), Ok(*peer));
            if !value.is_hide_set() {
                offered.push(*peer);
            }
        }
        assert_eq!(offered, Peer::ALL);
        assert_eq!(Peer::ALL[0], Peer::Lockd);
    }
}
