use std::path::Path;

/// How a SERP process fails: the content of a file with the name of its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Ends at once when it starts.
    Fail,
    /// Accepts connections and never answers.
    Hang,
    /// Names this version, whatever it has loaded.
    Old(i64),
    /// Has no path that names a version, as a release without versions.
    Unversioned,
    /// Is up only this many milliseconds after its start.
    Slow(u64),
    /// Ends at `/exit` without an answer.
    Drop,
    /// Answers `/exit` and does not exit.
    Deaf,
    /// Accepts `/exit`, and neither answers nor exits.
    Silent,
    /// Answers everything with a redirect to this port of the same host.
    Redirect(u16),
}

impl Fault {
    pub(super) fn write(self, folder: &Path, port: u16) {
        let text = match self {
            Self::Fail => "fail".to_owned(),
            Self::Hang => "hang".to_owned(),
            Self::Old(version) => format!("old {version}"),
            Self::Unversioned => "unversioned".to_owned(),
            Self::Slow(ms) => format!("slow {ms}"),
            Self::Drop => "drop".to_owned(),
            Self::Deaf => "deaf".to_owned(),
            Self::Silent => "silent".to_owned(),
            Self::Redirect(port) => format!("redirect {port}"),
        };
        let file = folder.join(port.to_string());
        let new = file.with_extension("new");
        std::fs::write(&new, text).expect("the folder of the faults can be written");
        std::fs::rename(&new, &file).expect("the folder of the faults can be written");
    }

    pub(super) fn clear(folder: &Path, port: u16) {
        let _ = std::fs::remove_file(folder.join(port.to_string()));
    }

    pub(super) fn read(folder: &Path, port: u16) -> Option<Self> {
        let text = std::fs::read_to_string(folder.join(port.to_string())).ok()?;
        let mut words = text.split_whitespace();
        let (word, number) = (words.next()?, words.next());
        match word {
            "fail" => Some(Self::Fail),
            "hang" => Some(Self::Hang),
            "old" => number?.parse().ok().map(Self::Old),
            "unversioned" => Some(Self::Unversioned),
            "slow" => number?.parse().ok().map(Self::Slow),
            "drop" => Some(Self::Drop),
            "deaf" => Some(Self::Deaf),
            "silent" => Some(Self::Silent),
            "redirect" => number?.parse().ok().map(Self::Redirect),
            other => panic!("{other:?} is no fault"),
        }
    }
}
