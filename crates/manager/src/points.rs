//! The points of time travel: snapshots of the own state in files, one for each stretch of the log. What lies
//! between two is read from the journal.

use std::path::{Path, PathBuf};

use crate::snapshot::SnapshotError;

/// The folder of points.
#[derive(Debug, Clone)]
pub struct Points(PathBuf);

/// One point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The index of the last record that it holds.
    pub index: u64,
    /// That record's time, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// About how many bytes of journal and history were written since the point before.
    pub bytes: u64,
    /// The file.
    pub path: PathBuf,
}

impl Points {
    /// The points of a data directory.
    pub fn open(data_dir: &Path) -> std::io::Result<Self> {
        let folder = data_dir.join("points");
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Where the point of a record belongs.
    pub fn place(&self, index: u64, at_ms: u64, bytes: u64) -> Point {
        let path = self.0.join(format!("{index}-{at_ms}-{bytes}.snapshot"));
        Point { index, at_ms, bytes, path }
    }

    /// A file for something that is on its way.
    pub fn passing(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Every point, the oldest first. Anything else in the folder is left alone.
    pub fn list(&self) -> Result<Vec<Point>, SnapshotError> {
        let fail = |source| SnapshotError::Io { path: self.0.clone(), source };
        let mut points = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            points.extend(read_name(&path));
        }
        points.sort_unstable();
        Ok(points)
    }

    /// Removes a point.
    pub fn remove(&self, point: &Point) -> Result<(), SnapshotError> {
        let fail = |source| SnapshotError::Io { path: point.path.clone(), source };
        std::fs::remove_file(&point.path).map_err(fail)
    }
}

fn read_name(path: &Path) -> Option<Point> {
    let name = path.file_name()?.to_str()?.strip_suffix(".snapshot")?;
    let mut numbers = name.split('-').map(|number| number.parse().ok());
    let (index, at_ms, bytes) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some(Point { index, at_ms, bytes, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_found_in_order_and_strangers_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let points = Points::open(folder.path()).unwrap();
        let places = [points.place(9, 90, 1), points.place(100, 100, 2), points.place(20, 95, 3)];
        for place in &places {
            std::fs::write(&place.path, "x").unwrap();
        }
        std::fs::write(points.passing("backup"), "x").unwrap();
        std::fs::write(points.passing("1-2.snapshot"), "x").unwrap();
        let found: Vec<u64> = points.list().unwrap().iter().map(|point| point.index).collect();
        assert_eq!(found, [9, 20, 100]);
    }
}
