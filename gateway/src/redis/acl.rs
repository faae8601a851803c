//! The fence in the words of a server's access list: what an application's user may do, and what
//! a connection may do in addition while it is registered. Pure.
//!
//! A user of an application may run its commands, may read every key, and may write the free
//! keys. A *registration* is a user of the same rights that may write the keys covered by the
//! tickets it was made for, too. To take them away is to give it the application's rights back;
//! the server looks at them before each command, each queued command of a transaction and each
//! call of a script, so nothing that was sent before takes effect afterwards.

use crate::config::{RedisConfig, RedisUser};
use crate::fence::set::TicketSet;

/// Where marks and registrations are: one key, so that losing one means losing all.
pub(crate) const FENCE_KEY: &str = "lockd:fence";

/// Names of registrations begin with this, so that they can be found without the fence's key.
pub(super) const REGISTRATION: &str = "fence:";

/// What no application may run, whatever its configuration says: it would change keys without
/// naming them, change rights, or take the data from under the fence. PFMERGE with one argument
/// makes a key that the server does not look at: where it finds no sources, it finds no keys.
const CLOSED: &[&str] = &[
    "-flushall",
    "-flushdb",
    "-swapdb",
    "-acl",
    "-config|set",
    "-config|rewrite",
    "-debug",
    "-module",
    "-replicaof",
    "-slaveof",
    "-failover",
    "-cluster",
    "-migrate",
    "-shutdown",
    "-psync",
    "-sync",
    "-replconf",
    "-restore-asking",
    "-client|kill",
    "-client|pause",
    "-pfdebug",
    "-pfmerge",
];

/// What the gateway itself runs on a client's connection.
const NEEDED: &[&str] = &["+echo", "+client|id", "+acl|whoami"];

/// Commands that change a key which they declare as only read.
const WRITES_DECLARED_AS_READS: &[&str] = &["xreadgroup"];

/// Commands that declare keys as written and change nothing by themselves: what a script does is
/// looked at call by call, and PFCOUNT writes what it has counted, not what it counts.
const READS_DECLARED_AS_WRITES: &str = "(-@all +eval +evalsha +fcall +pfcount ~*)";

/// What a registration keeps when its writes are taken away, whatever else is in the list: this
/// names no command that a server might not know, so it cannot fail.
pub(super) const STRIPPED: &[&str] = &["resetpass", "resetkeys", "clearselectors", "%R~*"];

/// Rights of an application without a ticket.
#[must_use]
pub(super) fn reader(config: &RedisConfig, user: &RedisUser) -> Vec<String> {
    rights(user, &free(config))
}

/// Rights of a connection of an application with these tickets.
#[must_use]
pub(super) fn writer(config: &RedisConfig, user: &RedisUser, tickets: &TicketSet) -> Vec<String> {
    let mut keys = free(config);
    for ticket in tickets.tickets() {
        let covered = config.guards.iter().flat_map(|g| g.covered(&ticket.lock));
        keys.extend(covered);
    }
    rights(user, &keys)
}

fn free(config: &RedisConfig) -> Vec<String> {
    config.free.iter().map(|pattern| pattern.glob("")).collect()
}

fn rights(user: &RedisUser, writable: &[String]) -> Vec<String> {
    let mut rules: Vec<String> = ["resetkeys", "resetchannels", "clearselectors", "-@all"]
        .map(str::to_owned)
        .into();
    let commands: Vec<String> = user
        .commands
        .iter()
        .cloned()
        .chain(CLOSED.iter().map(|&word| word.to_owned()))
        .collect();
    // Alone, a user reads. What writes is allowed where all that it writes is writable.
    rules.extend(commands.iter().cloned());
    rules.push("-@write".to_owned());
    rules.extend(NEEDED.iter().map(|&word| word.to_owned()));
    rules.push("%R~*".to_owned());
    rules.extend(user.channels.iter().map(|channel| format!("&{channel}")));
    let keys = writable
        .iter()
        .map(|key| format!(" ~{key}"))
        .collect::<String>();
    let mut selector = format!("({}", commands.join(" "));
    for name in WRITES_DECLARED_AS_READS {
        selector += &format!(" -{name}");
    }
    for channel in &user.channels {
        selector += &format!(" &{channel}");
    }
    rules.push(format!("{selector} %R~*{keys})"));
    if !keys.is_empty() {
        let names: String = WRITES_DECLARED_AS_READS
            .iter()
            .map(|n| format!(" +{n}"))
            .collect();
        rules.push(format!("(-@all{names}{keys})"));
    }
    rules.push(READS_DECLARED_AS_WRITES.to_owned());
    rules
}

/// Whether the server's refusal is of a key: those are the fence's.
#[must_use]
pub(super) fn refuses_key(line: &[u8]) -> bool {
    let has = |part: &str| line.windows(part.len()).any(|w| w == part.as_bytes());
    let refusal = line.starts_with(b"-NOPERM")
        || has("ACL failure in script")
        || has("The user executing the script can't access");
    refusal && (has(" key") || has(" keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_keys_are_told_from_refusals_of_commands() {
        for line in [
            "-NOPERM this user has no permissions to access one of the keys used as arguments",
            "-NOPERM No permissions to access a key",
            "-NOPERM ACLs rules changed between the moment the transaction was accumulated and \
             the EXEC call. This command is no longer allowed for the following reason: no \
             permission to touch the specified keys",
            "-ERR The user executing the script can't access at least one of the keys mentioned \
             in the command arguments script: affb, on @user_script:1.",
            "-ERR ACL failure in script: No permissions to access a key script: f_1, on @user:1.",
        ] {
            assert!(refuses_key(line.as_bytes()), "{line}");
        }
        for line in [
            "-NOPERM this user has no permissions to run the 'flushall' command",
            "-NOPERM this user has no permissions to access one of the channels used as arguments",
            "-ERR no such key",
            "-WRONGTYPE Operation against a key holding the wrong kind of value",
        ] {
            assert!(!refuses_key(line.as_bytes()), "{line}");
        }
    }
}
