//! What is attached to interfaces, found by interface: a node may have thousands of them, and each is asked about at every change.

use super::Handle;
use std::collections::{BTreeMap, HashMap};

#[derive(Debug)]
pub(super) struct Attachment {
    /// Index of the target.
    pub target: usize,
    /// Index of the namespace among those that targets name.
    pub netns: usize,
    pub ifindex: u32,
    pub iface: String,
    pub handle: Handle,
}

/// All attachments, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    all: BTreeMap<u64, Attachment>,
    /// By namespace and interface.
    on: HashMap<(usize, u32), Vec<u64>>,
    next: u64,
}

impl Attachments {
    pub fn push(&mut self, attachment: Attachment) {
        let key = (attachment.netns, attachment.ifindex);
        self.on.entry(key).or_default().push(self.next);
        self.all.insert(self.next, attachment);
        self.next += 1;
    }

    /// What is on one interface.
    pub fn on(&self, netns: usize, ifindex: u32) -> impl DoubleEndedIterator<Item = &Attachment> {
        let ids = self.on.get(&(netns, ifindex)).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|id| self.all.get(id))
    }

    /// Interfaces of a namespace that something is on.
    pub fn interfaces_of(&self, netns: usize) -> Vec<u32> {
        self.on
            .keys()
            .filter(|(other, _)| *other == netns)
            .map(|(_, ifindex)| *ifindex)
            .collect()
    }

    /// How many interfaces something is on.
    pub fn interfaces(&self) -> usize {
        self.on.len()
    }

    /// Notes which name an interface has. Returns the one that it had, if that was another.
    pub fn rename(&mut self, netns: usize, ifindex: u32, name: &str) -> Option<String> {
        let ids = self.on.get(&(netns, ifindex))?;
        let mut before = None;
        for id in ids {
            let attachment = self.all.get_mut(id).filter(|a| a.iface != name);
            before = attachment.map(|a| std::mem::replace(&mut a.iface, name.to_owned())).or(before);
        }
        before
    }

    /// Takes out what one target has on one interface.
    pub fn take_of(&mut self, netns: usize, ifindex: u32, target: usize) -> Option<Attachment> {
        let key = (netns, ifindex);
        let ids = self.on.get_mut(&key)?;
        let at = ids.iter().position(|id| self.all.get(id).is_some_and(|a| a.target == target))?;
        let id = ids.remove(at);
        if ids.is_empty() {
            self.on.remove(&key);
        }
        self.all.remove(&id)
    }

    /// Takes out all that is on one interface.
    pub fn take(&mut self, netns: usize, ifindex: u32) -> Vec<Attachment> {
        let ids = self.on.remove(&(netns, ifindex)).unwrap_or_default();
        ids.iter().filter_map(|id| self.all.remove(id)).collect()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn what_is_on_an_interface_is_found_in_its_order() {
        let mut all = Attachments::default();
        for (target, netns, ifindex) in [(0, 0, 7), (1, 0, 7), (0, 0, 8), (2, 1, 7), (3, 0, 7)] {
            all.push(Attachment {
                target,
                netns,
                ifindex,
                iface: format!("if{ifindex}"),
                handle: Handle::Link(OwnedFd::from(std::fs::File::open("/dev/null").unwrap())),
            });
        }
        let on = |all: &Attachments, netns, ifindex| -> Vec<usize> { all.on(netns, ifindex).map(|a| a.target).collect() };
        assert_eq!(on(&all, 0, 7), [0, 1, 3]);
        assert_eq!(all.on(0, 7).next_back().map(|a| a.target), Some(3));
        assert_eq!((on(&all, 1, 7), on(&all, 1, 8)), (vec![2], Vec::new()));
        assert_eq!(all.interfaces(), 3);
        let mut there = all.interfaces_of(0);
        there.sort_unstable();
        assert_eq!(there, [7, 8]);

        assert_eq!(all.rename(0, 7, "eth7").as_deref(), Some("if7"));
        assert_eq!((all.rename(0, 7, "eth7"), all.rename(5, 7, "eth7")), (None, None));
        assert!(all.on(0, 7).all(|a| a.iface == "eth7") && all.on(1, 7).all(|a| a.iface == "if7"));

        let one = all.take_of(0, 7, 1).map(|a| a.target);
        assert_eq!(
            (one, all.take_of(0, 7, 1).is_none(), all.take_of(0, 9, 1).is_none()),
            (Some(1), true, true)
        );
        assert_eq!((on(&all, 0, 7), on(&all, 1, 7), all.len()), (vec![0, 3], vec![2], 4));

        let gone: Vec<usize> = all.take(0, 7).iter().map(|a| a.target).collect();
        assert_eq!(gone, [0, 3]);
        assert_eq!((on(&all, 0, 7), on(&all, 1, 7), all.len()), (Vec::new(), vec![2], 2));
        assert!(all.take(0, 7).is_empty());

        let last = all.take_of(1, 7, 2).map(|a| a.target);
        assert_eq!((last, all.interfaces(), all.interfaces_of(1)), (Some(2), 1, Vec::new()));
    }
}
