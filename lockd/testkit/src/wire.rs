//! What clients ask of the network and of their executor. They may ask while the world is being
//! moved, by it, so nothing here waits for the world: it is put down, and a bell is rung.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::thread::{self, JoinHandle};

use lockd_client::test_kit::{Dial, Pipe, Spawn};
use lockd_protocol::NodeId;
use tokio::io::DuplexStream;

use crate::world::{World, node_at};

/// Bytes under way in one direction of a connection.
const BYTES_UNDER_WAY: usize = 256 * 1024;

/// A client's background task.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection that a client has just made.
pub(crate) struct Dialled {
    pub(crate) client: u64,
    pub(crate) node: NodeId,
    pub(crate) stream: DuplexStream,
    pub(crate) packets: Arc<AtomicU64>,
}

/// What was asked for, and who hears nothing.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) dialled: Vec<Dialled>,
    pub(crate) spawned: Vec<Task>,
    pub(crate) cut: BTreeSet<u64>,
    pub(crate) paused: BTreeSet<NodeId>,
    stopped: bool,
}

/// The desk and its bell.
pub(crate) struct Wires {
    desk: Mutex<Desk>,
    pub(crate) bell: Arc<Bell>,
}

/// Rung when somebody is to look.
#[derive(Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    driver: Mutex<Option<thread::Thread>>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = &*driver {
            driver.unpark();
        }
    }

    /// Whether it was rung since this was asked last.
    pub(crate) fn was_rung(&self) -> bool {
        self.rung.swap(false, Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.ring();
    }
}

impl Wires {
    pub(crate) fn new() -> Arc<Wires> {
        Arc::new(Wires {
            desk: Mutex::default(),
            bell: Arc::default(),
        })
    }

    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network of one client.
    pub(crate) fn dial(self: &Arc<Wires>, client: u64) -> Dial {
        let wires = Arc::clone(self);
        Arc::new(move |address| {
            let node = node_at(address)?;
            let mut desk = wires.desk();
            if desk.cut.contains(&client) || desk.paused.contains(&node) {
                return None;
            }
            let (ours, theirs) = tokio::io::duplex(BYTES_UNDER_WAY);
            let packets = Arc::new(AtomicU64::new(0));
            desk.dialled.push(Dialled {
                client,
                node,
                stream: theirs,
                packets: Arc::clone(&packets),
            });
            drop(desk);
            wires.bell.ring();
            let stream = ours;
            Some(Pipe { stream, packets })
        })
    }

    /// What runs the background tasks.
    pub(crate) fn spawn(self: &Arc<Wires>) -> Spawn {
        let wires = Arc::clone(self);
        Arc::new(move |task| {
            wires.desk().spawned.push(task);
            wires.bell.ring();
        })
    }

    pub(crate) fn cut(&self, client: u64, cut: bool) {
        let clients = &mut self.desk().cut;
        match cut {
            true => clients.insert(client),
            false => clients.remove(&client),
        };
    }

    pub(crate) fn pause(&self, node: NodeId, pause: bool) {
        let nodes = &mut self.desk().paused;
        match pause {
            true => nodes.insert(node),
            false => nodes.remove(&node),
        };
    }

    /// Ends the driver.
    pub(crate) fn stop(&self) {
        self.desk().stopped = true;
        self.bell.ring();
    }

    /// Starts what moves the world whenever the bell rings, without letting time pass.
    pub(crate) fn drive(self: &Arc<Wires>, world: Arc<Mutex<World>>) -> io::Result<JoinHandle<()>> {
        let wires = Arc::clone(self);
        let name = "lockd-testkit".to_owned();
        let driver = thread::Builder::new().name(name).spawn(move || {
            while !wires.desk().stopped {
                if wires.bell.was_rung() {
                    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
                    world.settle();
                } else {
                    thread::park();
                }
            }
        })?;
        let mut bell = self.bell.driver.lock();
        if let Ok(thread) = &mut bell {
            **thread = Some(driver.thread().clone());
        }
        drop(bell);
        self.bell.ring();
        Ok(driver)
    }
}
