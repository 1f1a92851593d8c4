//! Raw first flights over UDP: payloads, each behind its length.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};

use super::InspectFault;
use super::flow::{Datagrams, Flow};

/// Gives out the one flow of the file, also where the file ends inside a datagram.
pub(super) fn inspect_datagrams(
    name: &str,
    file: File,
    each: &mut dyn FnMut(Flow),
) -> Result<(), InspectFault> {
    let mut file = BufReader::new(file);
    let mut flow = Datagrams::default();
    let mut offset = 0;
    let end = loop {
        let mut header = [0; 2];
        match fill(&mut file, &mut header) {
            Ok(0) => break Ok(()),
            Ok(2) => {}
            Ok(_) => break Err(broken(name, offset)),
            Err(source) => break Err(InspectFault::Read { file: name.to_owned(), source }),
        }
        let mut datagram = vec![0; u16::from_be_bytes(header).into()];
        match fill(&mut file, &mut datagram) {
            Ok(len) if len == datagram.len() => {}
            Ok(_) => break Err(broken(name, offset)),
            Err(source) => break Err(InspectFault::Read { file: name.to_owned(), source }),
        }
        offset += 2 + datagram.len() as u64;
        // The rest is not read where nothing can come of it.
        if flow.push(&datagram, false) {
            break Ok(());
        }
    };
    each(flow.flow(name));
    end
}

fn broken(file: &str, offset: u64) -> InspectFault {
    InspectFault::Broken {
        file: file.to_owned(),
        offset,
        what: "a length (2 bytes, big-endian) reaches over the end of the file",
    }
}

/// Bytes read: fewer than asked for only at the end of the file.
fn fill(file: &mut impl Read, to: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while let Some(room) = to.get_mut(done..).filter(|room| !room.is_empty()) {
        match file.read(room) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
