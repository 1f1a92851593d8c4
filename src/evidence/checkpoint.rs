//! Checkpoints (<https://c2sp.org/tlog-checkpoint>) and proofs of single records
//! (<https://c2sp.org/tlog-proof>), as texts that other programs read.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::note::{NoteFault, PublicKey};
use super::tree::{self, Hash};

/// What a log holds: so many records, under this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, by which others tell it from any other.
    pub origin: String,
    /// Records.
    pub size: u64,
    /// The root of their tree.
    pub root: Hash,
}

/// Why a checkpoint or proof is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointFault {
    /// The note around it.
    #[error(transparent)]
    Note(#[from] NoteFault),
    /// No checkpoint.
    #[error("is not a checkpoint: three lines of the log's name, its size, and its root in base64")]
    Form,
    /// No proof.
    #[error("is not a proof: it begins with the line \"{PROOF}\", and ends with a checkpoint")]
    ProofForm,
    /// A proof that shows nothing.
    #[error("the proof does not lead from the record to the root of the checkpoint")]
    ProofFails,
}

impl Checkpoint {
    /// Reads the text of a checkpoint; lines behind the third are passed over.
    ///
    /// # Errors
    /// [`CheckpointFault::Form`].
    pub fn parse(text: &str) -> Result<Self, CheckpointFault> {
        let read = || {
            let mut lines = text.strip_suffix('\n')?.split('\n');
            let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
            let size = decimal(size)?;
            let is_named = !origin.is_empty();
            is_named.then_some(Self { origin: origin.to_owned(), size, root: hash(root)? })
        };
        read().ok_or(CheckpointFault::Form)
    }

    /// Reads a checkpoint that this key has signed.
    ///
    /// # Errors
    /// What the note or the checkpoint is not.
    pub fn open(note: &str, key: &PublicKey) -> Result<Self, CheckpointFault> {
        Self::parse(key.open(note)?)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, size, root } = self;
        write!(f, "{origin}\n{size}\n{}\n", BASE64.encode(root))
    }
}

/// The first line of a proof.
const PROOF: &str = "c2sp.org/tlog-proof@v1";

/// Shows, with a key alone, that a record stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The record, as it is written, without its line feed.
    pub record: Vec<u8>,
    /// Its number.
    pub index: u64,
    /// The hashes beside its way to the root.
    pub path: Vec<Hash>,
    /// The signed checkpoint.
    pub note: String,
}

impl Proof {
    /// Reads a proof.
    ///
    /// # Errors
    /// [`CheckpointFault::ProofForm`].
    pub fn parse(text: &str) -> Result<Self, CheckpointFault> {
        let read = || {
            let (head, note) = text.split_once("\n\n")?;
            let mut lines = head.split('\n');
            let is_proof = lines.next()? == PROOF;
            let record = BASE64.decode(lines.next()?.strip_prefix("extra ")?).ok()?;
            let index = decimal(lines.next()?.strip_prefix("index ")?)?;
            let path = lines.map(hash).collect::<Option<Vec<Hash>>>()?;
            is_proof.then(|| Self { record, index, path, note: note.to_owned() })
        };
        read().ok_or(CheckpointFault::ProofForm)
    }

    /// Reads every proof of a text.
    ///
    /// # Errors
    /// As [`Proof::parse`], also where there is none.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, CheckpointFault> {
        let head = format!("{PROOF}\n");
        let mut begins: Vec<usize> = text.match_indices(&head).map(|(at, _)| at).collect();
        if begins.first() != Some(&0) {
            return Err(CheckpointFault::ProofForm);
        }
        begins.push(text.len());
        let each = begins.windows(2).map(|pair| match pair {
            [from, to] => Self::parse(text.get(*from..*to).unwrap_or_default()),
            _ => Err(CheckpointFault::ProofForm),
        });
        each.collect()
    }

    /// The checkpoint in which the record stands, if it does.
    ///
    /// # Errors
    /// The checkpoint is not signed by this key, or the proof does not lead to it.
    pub fn check(&self, key: &PublicKey) -> Result<Checkpoint, CheckpointFault> {
        let checkpoint = Checkpoint::open(&self.note, key)?;
        let leaf = tree::leaf_hash(&self.record);
        let Checkpoint { size, root, .. } = &checkpoint;
        if tree::includes(&leaf, self.index, *size, &self.path, root) {
            Ok(checkpoint)
        } else {
            Err(CheckpointFault::ProofFails)
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{PROOF}\nextra {}\nindex {}", BASE64.encode(&self.record), self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{}", BASE64.encode(hash)))?;
        write!(f, "\n{}", self.note)
    }
}

/// A number as it is written without leading zeros or a sign.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A hash in base64.
pub(super) fn hash(text: &str) -> Option<Hash> {
    BASE64.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::note::PrivateKey;
    use super::super::tree::{Frontier, Window, leaf_hash};
    use super::*;

    fn proof() -> (PrivateKey, Proof) {
        let key = PrivateKey::generate("gateway.example").unwrap();
        let records: Vec<Vec<u8>> = (0..11_u8).map(|number| vec![number; 3]).collect();
        let leaves: Vec<Hash> = records.iter().map(|record| leaf_hash(record)).collect();
        let before = Frontier::default();
        let tree = Window::new(&before, &leaves);
        let checkpoint =
            Checkpoint { origin: "gateway.example".into(), size: 11, root: tree.root(11).unwrap() };
        let note = key.sign(&checkpoint.to_string());
        let path = tree.inclusion(6, 11).unwrap();
        (key, Proof { record: records[6].clone(), index: 6, path, note })
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        let checkpoint = Checkpoint { origin: "a log".into(), size: 7, root: [3; 32] };
        assert_eq!(Checkpoint::parse(&checkpoint.to_string()), Ok(checkpoint.clone()));
        let longer = format!("{checkpoint}an extension\n");
        assert_eq!(Checkpoint::parse(&longer), Ok(checkpoint.clone()));
        let text = checkpoint.to_string();
        for broken in [
            "".to_owned(),
            text.replace("a log", ""),
            text.replace("\n7", "\n07"),
            text.replace("\n7", "\n+7"),
            text.replace("\n7", "\n-7"),
            text.trim_end().to_owned(),
            text.replace("AwMD", "Aw"),
        ] {
            assert_eq!(Checkpoint::parse(&broken), Err(CheckpointFault::Form), "{broken:?}");
        }
    }

    #[test]
    fn a_proof_holds_and_one_that_was_changed_does_not() {
        let (key, proof) = proof();
        let text = proof.to_string();
        assert_eq!(Proof::parse(&text), Ok(proof.clone()));
        assert_eq!(Proof::parse_all(&format!("{text}{text}")), Ok(vec![proof.clone(); 2]));
        assert_eq!(proof.check(key.public()).map(|checkpoint| checkpoint.size), Ok(11));
        let fails = |change: fn(&mut Proof)| {
            let mut changed = proof.clone();
            change(&mut changed);
            changed.check(key.public()).unwrap_err()
        };
        let broken = CheckpointFault::ProofFails;
        assert_eq!(fails(|proof| proof.record[0] ^= 1), broken);
        assert_eq!(fails(|proof| proof.index += 1), broken);
        assert_eq!(fails(|proof| proof.path[1][0] ^= 1), broken);
        assert!(matches!(
            fails(|proof| proof.note = proof.note.replace("\n11\n", "\n12\n")),
            CheckpointFault::Note(NoteFault::Forged(_))
        ));
        for broken in ["", PROOF, &text.replace("index", "at"), &text.replace("v1", "v2")] {
            assert_eq!(Proof::parse_all(broken), Err(CheckpointFault::ProofForm), "{broken:?}");
        }
    }
}
