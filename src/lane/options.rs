//! The options of a TCP header: which leave the stream as it is, and how the others are taken out.

/// Numbers of options (IANA, "TCP Option Kind Numbers").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OptionKind(u8);

impl OptionKind {
    pub(super) const LARGEST_SEGMENT: Self = Self(2);
    const WINDOW_SCALE: Self = Self(3);
    const SACK_PERMITTED: Self = Self(4);
    const SACK: Self = Self(5);
    pub(super) const TIMESTAMPS: Self = Self(8);
    const ACCURATE_ECN: [Self; 2] = [Self(172), Self(174)];

    /// Whether it says nothing of which bytes the stream has. All else is taken out, known or not:
    /// Multipath TCP (30) maps bytes to other places, Fast Open (34, and 254 before it had a number) has
    /// a server take what came with the SYN, and what is not known could do either.
    fn is_plain(self) -> bool {
        [
            Self::LARGEST_SEGMENT,
            Self::WINDOW_SCALE,
            Self::SACK_PERMITTED,
            Self::SACK,
            Self::TIMESTAMPS,
        ]
        .contains(&self)
            || Self::ACCURATE_ECN.contains(&self)
    }
}

/// What stands behind the fixed part of a TCP header.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a>(pub(super) &'a [u8]);

impl<'a> Options<'a> {
    /// Tells each option with what it holds, and whether they are well-formed to the end.
    pub(super) fn each(&self, mut see: impl FnMut(OptionKind, &'a [u8])) -> bool {
        let mut rest = self.0;
        loop {
            let (kind, body, behind) = match *rest {
                [] => return true,
                // What is behind the end is padding (RFC 9293 §3.1).
                [0, ref padding @ ..] => return padding.iter().all(|&byte| byte == 0),
                [1, ref behind @ ..] => {
                    rest = behind;
                    continue;
                }
                [kind, length, ref behind @ ..] => {
                    let body = usize::from(length).checked_sub(2);
                    match body.and_then(|body| behind.split_at_checked(body)) {
                        Some((body, behind)) => (kind, body, behind),
                        None => return false,
                    }
                }
                [_] => return false,
            };
            see(OptionKind(kind), body);
            rest = behind;
        }
    }

    /// Whether they are well-formed, and leave the stream as it is.
    pub(super) fn are_plain(&self) -> bool {
        let mut plain = true;
        self.each(|kind, _| plain &= kind.is_plain()) && plain
    }

    /// Puts NOP in the place of every option that is not plain, of the end and what is behind it, and of
    /// all that follows an option that is cut short.
    pub(super) fn blank(options: &mut [u8]) {
        let mut at = 0;
        while let Some(rest) = options.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match *rest {
                [1, ..] => at += 1,
                [kind, length, ..]
                    if kind != 0 && (2..=rest.len()).contains(&usize::from(length)) =>
                {
                    let length = usize::from(length);
                    if !OptionKind(kind).is_plain()
                        && let Some(option) = rest.get_mut(..length)
                    {
                        option.fill(1);
                    }
                    at += length;
                }
                _ => return rest.fill(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of options, and whether they were plain before.
    fn blanked(options: &[u8]) -> (Vec<u8>, bool) {
        let plain = Options(options).are_plain();
        let mut left = options.to_vec();
        Options::blank(&mut left);
        assert!(Options(&left).are_plain(), "{left:?}");
        (left, plain)
    }

    #[test]
    fn what_is_not_known_to_leave_the_stream_as_it_is_is_blanked() {
        let usual = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];
        assert_eq!(blanked(&usual), (usual.to_vec(), true));
        assert_eq!(blanked(&[30, 4, 0, 1, 2, 4, 5, 180]), (vec![1, 1, 1, 1, 2, 4, 5, 180], false));
        assert_eq!(blanked(&[34, 2, 1, 1]), (vec![1; 4], false));
        assert_eq!(blanked(&[254, 4, 0xf9, 0x89]), (vec![1; 4], false));
        assert_eq!(blanked(&[2, 4, 5, 180, 0, 30, 4, 0]), (vec![2, 4, 5, 180, 1, 1, 1, 1], false));
        assert_eq!(blanked(&[2, 4, 5, 180, 0, 0, 0, 0]), (vec![2, 4, 5, 180, 1, 1, 1, 1], true));
    }

    #[test]
    fn what_is_cut_short_is_blanked_to_the_end() {
        for broken in [&[2, 4, 5, 180, 3, 0, 0, 0][..], &[2, 4, 5, 180, 3, 9, 1, 2]] {
            assert_eq!(blanked(broken), (vec![2, 4, 5, 180, 1, 1, 1, 1], false));
        }
        assert_eq!(blanked(&[1, 1, 1, 8]), (vec![1; 4], false));
        assert_eq!(blanked(&[8, 1, 3, 3]), (vec![1; 4], false));
    }
}
