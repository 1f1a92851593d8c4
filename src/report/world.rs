//! The map of the world and what countries are called: `config/map`, which `cargo xtask world` makes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The whole map, as the attribute `viewBox` of SVG.
pub const VIEW_BOX: &str = "0 0 2000 870";

/// Each country, the land without a code first.
const WORLD: &str = include_str!("../../config/map/world.csv");

/// The names, by code.
const COUNTRIES: &str = include_str!("../../config/map/countries.csv");

/// A language that texts are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Language {
    /// English
    #[default]
    En,
    /// French
    Fr,
}

impl Language {
    /// Its code (BCP 47), which is also its place among the columns of the names.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Fr => "fr",
        }
    }
}

/// A country on the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    /// Two-letter code; `-` is land that has none.
    pub code: &'static str,
    /// Its middle, in units of [`VIEW_BOX`].
    pub middle: (u32, u32),
    /// Its outline, as the attribute `d` of a path of SVG; empty where it is too small for one.
    pub path: &'static str,
}

/// Every country of the map, in an order in which they can be drawn.
pub fn outlines() -> impl Iterator<Item = Outline> {
    WORLD.lines().skip(1).filter_map(|line| {
        let mut cells = line.split(',');
        let code = cells.next()?;
        let middle = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
        Some(Outline { code, middle, path: cells.next()? })
    })
}

/// What a country is called; `None` where the code is nobody's.
#[must_use]
pub fn name(code: &str, language: Language) -> Option<&'static str> {
    static NAMES: LazyLock<BTreeMap<&str, [&str; 2]>> = LazyLock::new(|| {
        let each = COUNTRIES.lines().skip(1).filter_map(|line| {
            let mut cells = line.split(',');
            Some((cells.next()?, [cells.next()?, cells.next()?]))
        });
        each.collect()
    });
    let [english, french] = NAMES.get(code)?;
    Some(match language {
        Language::En => english,
        Language::Fr => french,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Country;

    #[test]
    fn every_country_has_a_name_in_each_language_and_nobody_else_has() {
        for country in Country::all() {
            for language in [Language::En, Language::Fr] {
                let name = name(country.code(), language);
                assert!(name.is_some_and(|name| name.len() > 2), "{country}");
            }
        }
        assert_eq!(COUNTRIES.lines().count(), Country::COUNT + 1);
        assert_eq!(name("ZZ", Language::En), None);
        assert_eq!(name("DE", Language::Fr), Some("Allemagne"));
    }

    #[test]
    fn the_map_has_the_countries_and_nothing_that_is_not_a_path() {
        let mut drawn = 0;
        for outline in outlines() {
            let is_known = Country::from_code(outline.code).is_some();
            assert!(is_known || outline.code == "-", "{outline:?}");
            let (x, y) = outline.middle;
            assert!(x <= 2000 && y <= 870, "{outline:?}");
            let is_path = |c: char| c.is_ascii_digit() || matches!(c, 'M' | 'l' | 'z' | '-' | ' ');
            assert!(outline.path.chars().all(is_path), "{outline:?}");
            drawn += usize::from(!outline.path.is_empty());
        }
        assert_eq!(outlines().count(), WORLD.lines().count() - 1, "a row that cannot be read");
        assert!(drawn > 170, "{drawn}");
        // Members of the union that have no shape have a place.
        assert!(outlines().any(|outline| outline.code == "MT" && outline.path.is_empty()));
    }
}
