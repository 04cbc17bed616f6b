//! The limit of the scheduler's figures: the plain full scan, as one writes E-PVM down from the paper.
//!
//! Nodes lie in one array, every node is looked at for every task, and every cost is two powers and a division for
//! each resource. No constraint, no explanation, no name: it is given every advantage but an idea.

use longshore_proto::spec::Resources;

/// How many resources a node has: cpu, memory, disk, places for tasks.
const DIMENSIONS: usize = 4;

/// One node.
#[derive(Debug, Clone, Copy)]
struct Node {
    capacity: [u64; DIMENSIONS],
    used: [u64; DIMENSIONS],
}

/// Every node.
#[derive(Debug, Clone, Default)]
pub(super) struct PlainScan {
    nodes: Vec<Node>,
}

fn amounts(resources: Resources, tasks: u32) -> [u64; DIMENSIONS] {
    [resources.cpu_millis, resources.memory_bytes, resources.disk_bytes, u64::from(tasks)]
}

impl PlainScan {
    pub(super) fn join(&mut self, capacity: Resources, tasks_max: u32) {
        let capacity = amounts(capacity, tasks_max);
        self.nodes.push(Node { capacity, used: [0; DIMENSIONS] });
    }

    /// The node whose cost rises least.
    pub(super) fn pick(&self, wanted: Resources) -> Option<usize> {
        let wanted = amounts(wanted, 1);
        let base = self.nodes.len() as f64;
        let mut best = None;
        let mut least = f64::INFINITY;
        for (at, node) in self.nodes.iter().enumerate() {
            if (0..DIMENSIONS).any(|r| node.used[r] + wanted[r] > node.capacity[r]) {
                continue;
            }
            let mut rise = 0.0;
            for ((used, wanted), capacity) in node.used.iter().zip(&wanted).zip(&node.capacity) {
                let capacity = *capacity as f64;
                rise += base.powf((used + wanted) as f64 / capacity);
                rise -= base.powf(*used as f64 / capacity);
            }
            if rise < least {
                (best, least) = (Some(at), rise);
            }
        }
        best
    }

    pub(super) fn reserve(&mut self, node: usize, wanted: Resources) {
        let used = &mut self.nodes[node].used;
        used.iter_mut().zip(amounts(wanted, 1)).for_each(|(used, wanted)| *used += wanted);
    }

    pub(super) fn release(&mut self, node: usize, wanted: Resources) {
        let used = &mut self.nodes[node].used;
        used.iter_mut().zip(amounts(wanted, 1)).for_each(|(used, wanted)| *used -= wanted);
    }
}
