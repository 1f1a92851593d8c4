//! What a report says, in each language: one file a language, and the compiler holds that none lacks a
//! text.

mod en;
mod fr;

use super::world::Language;

/// The texts of one language.
#[derive(Debug)]
#[expect(missing_docs, reason = "the name of a text says which it is; en.rs has them")]
pub struct Texts {
    pub titles: [&'static str; 5],
    pub subtitle: &'static str,
    pub span: &'static str,
    pub made: &'static str,
    pub all_times_utc: &'static str,
    pub group: &'static str,
    pub every_group: &'static str,
    pub in_short: &'static str,
    pub nothing: &'static str,
    pub left_outside: &'static str,
    pub left_outside_says: &'static str,
    pub left_permitted: &'static str,
    pub left_permitted_says: &'static str,
    pub refused: &'static str,
    pub refused_says: &'static str,
    pub record: &'static str,
    pub of_all_up: &'static str,
    pub connections: &'static str,
    pub connections_of: &'static str,
    pub where_to: &'static str,
    pub ground: &'static str,
    pub what_became: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub opened: &'static str,
    pub share: &'static str,
    pub rows: &'static str,
    pub sum: &'static str,
    pub others: &'static str,
    pub more: &'static str,
    pub none: &'static str,
    pub unknown_place: &'static str,
    pub unknown_law: &'static str,
    pub unknown_operator: &'static str,
    pub unknown_code: &'static str,
    pub anycast: &'static str,
    pub or: &'static str,
    pub and: &'static str,
    pub no_rule: &'static str,
    pub no_basis: &'static str,
    pub by_day: &'static str,
    pub by_day_says: &'static str,
    pub map: &'static str,
    pub map_says: &'static str,
    pub map_borders: &'static str,
    pub legend_permitted: &'static str,
    pub legend_outside: &'static str,
    pub by_country: &'static str,
    pub by_country_says: &'static str,
    pub by_law: &'static str,
    pub by_law_says: &'static str,
    pub operators: &'static str,
    pub operators_new: &'static str,
    pub operators_says: &'static str,
    pub groups: &'static str,
    pub groups_says: &'static str,
    pub names: &'static str,
    pub names_says: &'static str,
    pub partial: &'static str,
    pub waivers: &'static str,
    pub waivers_says: &'static str,
    pub waivers_none: &'static str,
    pub waiver: &'static str,
    pub owner: &'static str,
    pub reason: &'static str,
    pub days_left: &'static str,
    pub to_the_end_of: &'static str,
    pub ended: &'static str,
    pub not_begun: &'static str,
    pub unused: &'static str,
    pub not_in_policy: &'static str,
    pub policy_not_read: &'static str,
    pub refusals: &'static str,
    pub refusals_says: &'static str,
    pub top_names: &'static str,
    pub first_seen: &'static str,
    pub first_seen_says: &'static str,
    pub first_seen_nothing_before: &'static str,
    pub countries: &'static str,
    pub first: &'static str,
    pub name: &'static str,
    pub undecidable: &'static str,
    pub undecidable_says: &'static str,
    pub contradicted: &'static str,
    pub contradicted_says: &'static str,
    pub contradicted_none: &'static str,
    pub blind: &'static str,
    pub blind_spots: [&'static str; 7],
    pub in_force: &'static str,
    pub in_force_says: &'static str,
    pub when: &'static str,
    pub what: &'static str,
    pub policy: &'static str,
    pub mode: &'static str,
    pub table: &'static str,
    pub digest: &'static str,
    pub as_of: &'static str,
    pub started: &'static str,
    pub reloaded: &'static str,
    pub reload_failed: &'static str,
    pub stopped: &'static str,
    pub before_span: &'static str,
    pub whole: &'static str,
    pub holds: &'static str,
    pub holds_not: &'static str,
    pub not_verified: &'static str,
    pub verified_says: &'static str,
    pub head: &'static str,
    pub head_none: &'static str,
    pub head_signed: &'static str,
    pub head_unsigned: &'static str,
    pub gaps: &'static str,
    pub gaps_none: &'static str,
    pub unreadable: &'static str,
    pub lost: &'static str,
    pub lost_unknown: &'static str,
    pub missing: &'static str,
    pub hours: &'static str,
    pub hours_enforcing: &'static str,
    pub hours_observing: &'static str,
    pub hours_stopped: &'static str,
    pub hours_unknown: &'static str,
    pub hours_says: &'static str,
    pub reconciled: &'static str,
    pub agrees: &'static str,
    pub agrees_not: &'static str,
    pub not_compared: &'static str,
    pub rows_add_up: &'static str,
    pub asked_at_once: &'static str,
    pub all_rows: &'static str,
    pub all_rows_says: &'static str,
    pub verdict: &'static str,
    pub fates: [&'static str; 7],
    pub fates_say: [&'static str; 7],
    /// Reason codes and what they mean.
    pub reasons: &'static [(&'static str, &'static str)],
    pub decimal: char,
    pub thousands: char,
    /// Units of bytes, from one to a million million of them.
    pub bytes: [&'static str; 6],
    pub contents: &'static str,
    pub law: &'static str,
    pub location: &'static str,
    pub operator: &'static str,
    pub made_by: &'static str,
}

impl Texts {
    /// Those of a language.
    #[must_use]
    pub const fn of(language: Language) -> &'static Self {
        match language {
            Language::En => &en::TEXTS,
            Language::Fr => &fr::TEXTS,
        }
    }

    /// What a reason code means; the code itself where nobody has said it.
    #[must_use]
    pub fn reason_of<'r>(&self, code: &'r str) -> &'r str {
        self.reasons.iter().find(|(known, _)| *known == code).map_or(code, |(_, says)| says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every text of a language, in the order of its fields.
    fn texts_of(language: Language) -> Vec<String> {
        let all = format!("{:?}", Texts::of(language));
        all.split('"').skip(1).step_by(2).map(|text| text.replace("\\u{a0}", "\u{a0}")).collect()
    }

    #[test]
    fn each_language_has_each_text_and_explains_the_same_reasons_in_the_same_order() {
        let (english, french) = (texts_of(Language::En), texts_of(Language::Fr));
        assert_eq!(english.len(), french.len());
        assert!(english.len() > 150, "{} texts were found", english.len());
        let marks = |text: &str| text.matches(['{', '}', '%', '<', '&']).count();
        for (en, fr) in english.iter().zip(&french) {
            assert_eq!(en.trim().is_empty(), fr.trim().is_empty(), "{en:?} is {fr:?} in French");
            assert_eq!(
                marks(en) + marks(fr),
                0,
                "a text has no place to fill in, and no markup: {en:?}, {fr:?}"
            );
        }
        let codes = |language| {
            Texts::of(language).reasons.iter().map(|(code, _)| *code).collect::<Vec<_>>()
        };
        assert_eq!(codes(Language::En), codes(Language::Fr));
    }

    #[test]
    fn french_has_its_apostrophes_and_no_line_begins_with_a_colon_or_a_question_mark() {
        for text in texts_of(Language::Fr) {
            assert!(!text.contains('\''), "a typewriter's apostrophe: {text:?}");
            for (at, mark) in text.match_indices([':', ';', '?', '!']) {
                assert!(
                    text[..at].ends_with(['\u{a0}', '\u{202f}']),
                    "no unbroken space before {mark}: {text:?}"
                );
            }
        }
    }
}
