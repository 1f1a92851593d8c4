//! Packets of a connection that the kernel is to carry.

use std::collections::BTreeMap;

use schengate::identify::Step;
use schengate::lane::packet::{Offload, Packet};
use schengate::lane::{Disposition, Event, Flow, Held, Judgement, Pool};

/// The bytes as packets, each behind a byte that says how it comes and two of its length; of a flow whose
/// server took the first SYN. Whatever is permitted: for each number one byte goes on.
pub fn lane(mut data: &[u8]) {
    let mut pool = Pool::new(1, 1);
    let mut flow = Flow::new();
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut gone: BTreeMap<u32, u8> = BTreeMap::new();
    while let [how, high, low, ref rest @ ..] = *data {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (bytes, behind) = rest.split_at(length);
        data = behind;
        let offload = Offload { checksum_missing: how & 2 == 0, gso: how & 4 != 0 };
        let Ok(packet) = Packet::read(bytes, offload) else { continue };
        assert!(packet.bytes().len() <= bytes.len());
        let mut room = vec![0; bytes.len() + 60];
        let cut = packet.cut_into(&mut room);
        assert!(cut.is_none_or(|length| length <= bytes.len()));
        let mut copy = bytes.to_vec();
        if let Some(length) = cut {
            copy = room[..length].to_vec();
            let cut = Packet::read(&copy, Offload::default()).expect("a copy is a packet");
            assert!(cut.is_intact() && !cut.needs_cut());
        }
        packet.segments(1 + length / 3, &mut room, |segment| assert!(segment.len() >= 20));
        let step = if how & 1 == 0 {
            flow.from_client(&packet, &mut pool)
        } else {
            flow.from_server(&packet, &mut pool)
        };
        let by_client = how & 1 == 0;
        match step.packet {
            Disposition::Hold | Disposition::HoldCut => held.push(copy),
            Disposition::Pass | Disposition::PassCut if by_client => goes(&copy, &mut gone),
            Disposition::Pass | Disposition::PassCut | Disposition::Drop => {}
        }
        let mut event = step.event;
        while let Some(happened) = event.take() {
            let judgement = match happened {
                Event::Opened | Event::Closed => {
                    held.clear();
                    gone.clear();
                    continue;
                }
                Event::Carried => return flow.end(&mut pool),
                Event::FirstFlight => match flow.identify() {
                    Step::NeedMore(_) => Judgement::NeedMore,
                    Step::Done(_) if how & 8 == 0 => Judgement::Permitted,
                    Step::Done(_) => Judgement::Refused,
                },
                Event::GiveUp(_) => Judgement::Refused,
                Event::Retry | Event::RepeatAlert | Event::ResetClient | Event::ResetServer => {
                    continue;
                }
            };
            let outcome = flow.judged(judgement, &mut pool);
            event = outcome.event;
            match outcome.held {
                Held::Keep => {}
                Held::Drop => held.clear(),
                Held::Release(bits) => {
                    for (at, copy) in held.drain(..).enumerate() {
                        if bits >> at & 1 == 1 {
                            goes(&copy, &mut gone);
                        }
                    }
                }
            }
            if event == Some(Event::Carried) {
                return flow.end(&mut pool);
            }
        }
    }
    flow.end(&mut pool);
    assert_eq!(pool.left(), (1, 1), "no room is lost");
}

fn goes(bytes: &[u8], gone: &mut BTreeMap<u32, u8>) {
    let packet = Packet::read(bytes, Offload::default()).expect("it was read");
    let Some(tcp) = packet.tcp() else { panic!("a flow is of TCP") };
    assert!(!tcp.syn || tcp.payload.is_empty(), "bytes beside a SYN");
    for (number, &byte) in (0..).zip(tcp.payload) {
        let number = tcp.sequence.wrapping_add(number);
        assert_eq!(*gone.entry(number).or_insert(byte), byte, "two bytes for {number}");
    }
}
