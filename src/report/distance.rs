//! How far away countries are, and which of them a measured round trip excludes: `config/map/cells.csv`,
//! which `cargo xtask world` makes of the same shapes as the map.
//!
//! Everything errs on the side of "it may be there": a country is each half degree of the earth that
//! it touches, the earth is as small as it is bent most, fibre runs straight, and no country of
//! which there is no shape is excluded.

use std::fmt;
use std::str::FromStr;

use crate::policy::{Country, CountrySet};

/// The cells of each country: `iso2,cells`, where `cells` are runs `ROW:COLUMN-COLUMN` of half degrees,
/// rows from the south pole, columns from 180 degrees west, both ends within, separated by `;`.
const CELLS: &str = include_str!("../../config/map/cells.csv");

/// Degrees of a cell, both ways.
const CELL: f64 = 0.5;

/// Kilometres of a radian: where the ellipsoid of WGS 84 is bent most, on the equator from north to
/// south, a²(1-e²)/a. No distance on the ellipsoid is shorter than on this sphere.
const RADIUS_KM: f64 = 6335.439;

/// Microseconds that light takes for a kilometre of fibre and back: 299,792.458 km/s by a group index of
/// 1.462, the lowest of the glass that is in the ground (pure silica core; of most fibre it is 1.468).
/// Air and hollow fibre are faster, up to 6.67.
pub const MICROSECONDS_A_KILOMETRE: f64 = 2.0 * 1.462 * 1000.0 / 299.792_458;

/// What the kernel may have measured too little: where nothing but a repeated segment is acknowledged, it
/// takes the time from the timestamps of TCP, which are of whole milliseconds.
pub const CLOCK_US: u32 = 1000;

/// Where a gateway stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// Somewhere in a country.
    Country(Country),
    /// Degrees north and east.
    Point {
        /// From -90 to 90.
        latitude: f64,
        /// From -180 to 180.
        longitude: f64,
    },
}

/// What is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", Self::HELP)]
pub struct NoPosition;

impl NoPosition {
    /// What to write instead.
    pub const HELP: &'static str =
        "write a country's code, \"DE\", or degrees north and east, \"48.14,11.58\"";
}

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let Some((latitude, longitude)) = text.split_once(',') else {
            // Of a country without a shape nobody could say how far anything is.
            let country = Country::from_code(text.trim())
                .filter(|country| runs_of(*country).next().is_some());
            return country.map(Self::Country).ok_or(NoPosition);
        };
        let within = |text: &str, most: f64| {
            text.trim().parse::<f64>().ok().filter(|degrees| degrees.abs() <= most)
        };
        within(latitude, 90.0)
            .zip(within(longitude, 180.0))
            .map(|(latitude, longitude)| Self::Point { latitude, longitude })
            .ok_or(NoPosition)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Country(country) => write!(f, "{country}"),
            Self::Point { latitude, longitude } => write!(f, "{latitude},{longitude}"),
        }
    }
}

/// How far each country is from a position at the least.
#[derive(Debug, Clone)]
pub struct Distances {
    kilometres: Box<[f64; Country::COUNT]>,
}

impl Distances {
    /// From this position.
    #[must_use]
    pub fn of(from: Position) -> Self {
        Self::to(from, CountrySet::all())
    }

    /// The same, to these countries alone: of the others nobody knows.
    #[must_use]
    pub fn to(from: Position, countries: CountrySet) -> Self {
        let mut kilometres = Box::new([0.0; Country::COUNT]);
        // Each place of the position, and how far from it the position may be in truth.
        let places: Vec<(f64, f64, f64)> = match from {
            Position::Point { latitude, longitude } => vec![(latitude, longitude, 0.0)],
            Position::Country(country) => border(country),
        };
        for country in countries.iter() {
            let runs: Vec<Run> = runs_of(country).collect();
            let is_shared = matches!(from, Position::Country(own) if share_a_cell(own, &runs));
            if let Some(km) = kilometres.get_mut(country.index())
                && !(runs.is_empty() || places.is_empty() || is_shared)
            {
                *km = nearest(&places, &runs);
            }
        }
        Self { kilometres }
    }

    /// Kilometres to the nearest place of a country at the least; 0 where nobody knows.
    #[must_use]
    pub fn kilometres(&self, country: Country) -> f64 {
        self.kilometres.get(country.index()).copied().unwrap_or(0.0)
    }

    /// The shortest round trip to the nearest of some countries, microseconds; `None` where there are none.
    #[must_use]
    pub fn round_trip(&self, countries: CountrySet) -> Option<f64> {
        let each = countries.iter().map(|country| self.kilometres(country));
        each.reduce(f64::min).map(|km| km * MICROSECONDS_A_KILOMETRE)
    }

    /// The countries of a location, where a round trip (microseconds, as the kernel measured it) is too
    /// short for each of them; none where it may have gone to one.
    #[must_use]
    pub fn contradicted(&self, location: CountrySet, round_trip: u32) -> CountrySet {
        let measured = f64::from(round_trip.saturating_add(CLOCK_US));
        let is_too_far = self.round_trip(location).is_some_and(|least| least > measured);
        if is_too_far { location } else { CountrySet::EMPTY }
    }
}

/// A run of cells: a rectangle of degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Run {
    south: f64,
    west: f64,
    east: f64,
}

/// The runs of a country; none where it has no shape.
fn runs_of(country: Country) -> impl Iterator<Item = Run> {
    let code = country.code();
    let line = CELLS.lines().skip(1).find_map(|line| line.strip_prefix(code)?.strip_prefix(','));
    line.unwrap_or_default().split(';').filter_map(|run| {
        let (row, columns) = run.split_once(':')?;
        let (first, last) = columns.split_once('-').unwrap_or((columns, columns));
        let number = |text: &str| text.parse::<u16>().ok().map(f64::from);
        Some(Run {
            south: number(row)? * CELL - 90.0,
            west: number(first)? * CELL - 180.0,
            east: (number(last)? + 1.0) * CELL - 180.0,
        })
    })
}

/// Whether a country has a cell in common with others.
fn share_a_cell(country: Country, others: &[Run]) -> bool {
    let meets = |one: &Run, other: &Run| {
        one.south == other.south && one.west < other.east && other.west < one.east
    };
    runs_of(country).any(|run| others.iter().any(|other| meets(&run, other)))
}

/// The middles of a country's outer cells, each with the kilometres from there to its corners: what shares
/// no cell with the country is nearest to one of them.
fn border(country: Country) -> Vec<(f64, f64, f64)> {
    let runs: Vec<Run> = runs_of(country).collect();
    let is_in = |south: f64, west: f64| {
        runs.iter().any(|run| run.south == south && run.west <= west && west < run.east)
    };
    let mut places = Vec::new();
    for run in &runs {
        let mut west = run.west;
        while west < run.east {
            let is_inner = is_in(run.south - CELL, west)
                && is_in(run.south + CELL, west)
                && is_in(run.south, west - CELL)
                && is_in(run.south, west + CELL);
            if !is_inner {
                let middle = (run.south + CELL / 2.0, west + CELL / 2.0);
                let corner = |south| between(middle, (south, west));
                let radius = corner(run.south).max(corner(run.south + CELL));
                places.push((middle.0, middle.1, radius));
            }
            west += CELL;
        }
    }
    places
}

/// Kilometres between places of which each may be off by so much, and runs; not below 0.
fn nearest(places: &[(f64, f64, f64)], runs: &[Run]) -> f64 {
    let mut least = f64::INFINITY;
    for &(latitude, longitude, off) in places {
        for run in runs {
            // What is too far to the north or south is not looked at.
            let gap = (run.south - latitude).max(latitude - run.south - CELL).max(0.0);
            if gap.to_radians() * RADIUS_KM - off < least {
                least = least.min(to_run((latitude, longitude), run) - off);
            }
        }
    }
    least.max(0.0)
}

/// Kilometres from a point to a rectangle of degrees: straight to the north or south where it is in its
/// longitudes, else to the nearer one of its two meridians.
fn to_run(point: (f64, f64), run: &Run) -> f64 {
    let north = run.south + CELL;
    if run.west <= point.1 && point.1 <= run.east {
        let gap = (run.south - point.0).max(point.0 - north).max(0.0);
        return gap.to_radians() * RADIUS_KM;
    }
    let to_meridian = |longitude: f64| {
        // The foot of the perpendicular on the meridian, and what of the rectangle is nearest to it.
        let apart = (point.1 - longitude).to_radians();
        let foot = point.0.to_radians().sin().atan2(point.0.to_radians().cos() * apart.cos());
        let at = |latitude: f64| between(point, (latitude, longitude));
        let foot = foot.to_degrees();
        let inner = if (run.south..=north).contains(&foot) { at(foot) } else { f64::INFINITY };
        inner.min(at(run.south)).min(at(north))
    };
    to_meridian(run.west).min(to_meridian(run.east))
}

/// Kilometres between two points (latitude, longitude), by the haversine.
fn between(one: (f64, f64), other: (f64, f64)) -> f64 {
    let half = |one: f64, other: f64| ((other - one).to_radians() / 2.0).sin().powi(2);
    let (north, south) = (one.0.to_radians(), other.0.to_radians());
    let square = half(one.0, other.0) + north.cos() * south.cos() * half(one.1, other.1);
    2.0 * RADIUS_KM * square.sqrt().min(1.0).asin()
}
