//! pcap and pcapng files, block by block.

use std::fs::File;

use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use super::InspectFault;
use super::flow::Flow;
use super::packet::{self, Decoder};
use super::track::Tracker;

/// Bytes read at a time, and the largest block that is read.
const BUFFER: usize = 1024 * 1024;
const BLOCK_MAX: usize = 32 * 1024 * 1024;

/// Gives out the flows of a capture, also where it is broken.
pub(super) fn inspect(
    name: &str,
    file: File,
    each: &mut dyn FnMut(Flow),
) -> Result<(), InspectFault> {
    let mut tracker = Tracker::new(name);
    let end = read(name, file, &mut tracker, each);
    tracker.finish(each);
    end
}

fn read(
    name: &str,
    file: File,
    tracker: &mut Tracker<'_>,
    each: &mut dyn FnMut(Flow),
) -> Result<(), InspectFault> {
    let broken = |offset: usize, what| InspectFault::Broken {
        file: name.to_owned(),
        offset: offset as u64,
        what,
    };
    let mut reader = match create_reader(BUFFER, file) {
        Ok(reader) => reader,
        Err(PcapError::ReadError) => {
            let source = std::io::Error::other("the system could not read it");
            return Err(InspectFault::Read { file: name.to_owned(), source });
        }
        Err(_) => return Err(InspectFault::NotACapture { file: name.to_owned() }),
    };
    let mut decoder = Decoder::new();
    // One link type in a pcap file, one for each interface of a pcapng section.
    let mut links: Vec<Linktype> = Vec::new();
    let mut capacity = BUFFER;
    // The other interfaces of a capture are read though one is not.
    let mut unread = None;
    loop {
        let offset = reader.consumed();
        let more = match reader.next() {
            Ok((len, block)) => {
                let frame = match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        links = vec![header.network];
                        None
                    }
                    PcapBlockOwned::Legacy(block) => Some((0, block.data)),
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                        links.clear();
                        None
                    }
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        links.push(interface.linktype);
                        None
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(ref block)) => {
                        Some((block.if_id as usize, block.packet_data()))
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(ref block)) => {
                        Some((0, block.packet_data()))
                    }
                    PcapBlockOwned::NG(_) => None,
                };
                if let Some((interface, frame)) = frame {
                    let Some(&link) = links.get(interface) else {
                        return Err(broken(
                            offset,
                            "a packet of an interface that is not described",
                        ));
                    };
                    if !packet::is_read(link) {
                        unread.get_or_insert(link);
                    } else if let Some(packet) = decoder.read(link, frame) {
                        tracker.add(&packet, each);
                    }
                }
                reader.consume(len);
                continue;
            }
            Err(PcapError::Eof) => {
                return unread.map_or(Ok(()), |Linktype(link_type)| {
                    Err(InspectFault::LinkType { file: name.to_owned(), link_type })
                });
            }
            Err(PcapError::Incomplete(_)) => true,
            Err(PcapError::UnexpectedEof) => false,
            Err(PcapError::BufferTooSmall) => {
                return Err(broken(offset, "a block is larger than 32 MiB"));
            }
            Err(PcapError::ReadError) => {
                return Err(broken(offset, "the file could not be read on"));
            }
            Err(
                PcapError::HeaderNotRecognized
                | PcapError::NomError(..)
                | PcapError::OwnedNomError(..),
            ) => return Err(broken(offset, "no block of a capture is here")),
        };
        if !more || reader.reader_exhausted() {
            return Err(broken(offset, "the file ends inside a block"));
        }
        // A block larger than the buffer.
        if reader.data().len() >= capacity {
            capacity *= 2;
            if capacity > BLOCK_MAX || !reader.grow(capacity) {
                return Err(broken(offset, "a block is larger than 32 MiB"));
            }
        }
        if reader.refill().is_err() {
            return Err(broken(offset, "the file could not be read on"));
        }
    }
}
