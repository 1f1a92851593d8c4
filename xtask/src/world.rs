//! Makes the map and the names of countries that reports show, and the cells by which distances are told,
//! from the unpacked packages that `config/README.md` names. The same packages give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use schengate::policy::Country;
use serde::Deserialize;
use serde_json::Value;

use crate::Done;

/// Arguments of `world`.
#[derive(Debug, clap::Args)]
pub(crate) struct World {
    /// Directory of unpacked packages (config/README.md)
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Directory that receives the files
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/map"))]
    out: PathBuf,
}

/// Width of the map in its own units; whole numbers are then half a point on a page.
const WIDTH: f64 = 2000.0;

/// Cells of a degree: `src/report/distance.rs` reads them.
const CELLS: f64 = 2.0;

/// Writes `world.csv`, `countries.csv` and `cells.csv`.
pub(crate) fn run(arguments: &World) -> Done {
    let (world, countries) = build(&arguments.from)?;
    let cells = cells(&arguments.from)?;
    fs::create_dir_all(&arguments.out)?;
    for (file, text) in [("world.csv", world), ("countries.csv", countries), ("cells.csv", cells)] {
        fs::write(arguments.out.join(file), &text)?;
        println!("{file}: {} rows, {} bytes", text.lines().count() - 1, text.len());
    }
    Ok(())
}

/// The two files.
fn build(from: &Path) -> Result<(String, String), Box<dyn std::error::Error>> {
    let numbers = numbers(&read(&from.join("cldr-core/supplemental/codeMappings.json"))?);
    let coarse = Topology::read(&from.join("world-atlas/countries-110m.json"))?;
    let fine = Topology::read(&from.join("world-atlas/countries-10m.json"))?;
    // Land without a code of its own is drawn, and is nobody's: it stands first, below the others.
    let mut rows: BTreeMap<String, (i64, i64, String)> = BTreeMap::new();
    for geometry in coarse.countries() {
        let code = geometry.code(&numbers);
        // It would be a third of the map, and nothing is sent there.
        if code.as_deref() == Some("AQ") {
            continue;
        }
        let rings = coarse.rings(geometry);
        let (x, y) = middle(&rings);
        let row =
            rows.entry(code.unwrap_or_else(|| "-".to_owned())).or_insert((x, y, String::new()));
        rings.iter().for_each(|ring| row.2.push_str(&path(ring)));
    }
    // What is too small for a shape has a place all the same.
    for geometry in fine.countries() {
        let Some(code) = geometry.code(&numbers).filter(|code| code != "AQ") else { continue };
        rows.entry(code).or_insert_with(|| {
            let (x, y) = middle(&fine.rings(geometry));
            (x, y, String::new())
        });
    }
    let mut world = "iso2,x,y,shape\n".to_owned();
    for (code, (x, y, shape)) in &rows {
        writeln!(world, "{code},{x},{y},{shape}")?;
    }
    let name = |language: &str| -> Result<Value, Box<dyn std::error::Error>> {
        let file = format!("cldr-localenames-full/main/{language}/territories.json");
        let text = read(&from.join(file))?;
        Ok(text["main"][language]["localeDisplayNames"]["territories"].clone())
    };
    let (english, french) = (name("en")?, name("fr")?);
    let mut countries = "iso2,en,fr\n".to_owned();
    for country in Country::all() {
        let code = country.code();
        let called = |names: &Value| -> Result<String, String> {
            // Hong Kong, Macao and Palestine by the names that people use.
            let short = names[format!("{code}-alt-short")].as_str();
            let short = short.filter(|_| ["HK", "MO", "PS"].contains(&code));
            let name = short.or_else(|| names[code].as_str());
            let name = name.ok_or_else(|| format!("{code} has no name"))?;
            if name.contains([',', '"', '\n']) {
                return Err(format!("{code}: {name} would have to be quoted"));
            }
            Ok(name.to_owned())
        };
        writeln!(countries, "{code},{},{}", called(&english)?, called(&french)?)?;
    }
    Ok((world, countries))
}

/// The cells of the earth that each country touches.
fn cells(from: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let numbers = numbers(&read(&from.join("cldr-core/supplemental/codeMappings.json"))?);
    let fine = Topology::read(&from.join("world-atlas/countries-10m.json"))?;
    let mut of_country: BTreeMap<String, BTreeSet<(i64, i64)>> = BTreeMap::new();
    for geometry in fine.countries() {
        if let Some(code) = geometry.code(&numbers) {
            of_country.entry(code).or_default().extend(touched(&fine.outlines(geometry)));
        }
    }
    let mut text = "iso2,cells\n".to_owned();
    for (code, cells) in &of_country {
        let mut runs: Vec<(i64, i64, i64)> = Vec::new();
        for &(row, column) in cells {
            match runs.last_mut() {
                Some((before, _, last)) if *before == row && *last + 1 == column => *last = column,
                _ => runs.push((row, column, column)),
            }
        }
        let run = |(row, first, last): &(i64, i64, i64)| {
            if first == last { format!("{row}:{first}") } else { format!("{row}:{first}-{last}") }
        };
        writeln!(text, "{code},{}", runs.iter().map(run).collect::<Vec<_>>().join(";"))?;
    }
    Ok(text)
}

/// The cells, each by its row and column, that rings in degrees go through or have within.
fn touched(rings: &[Ring]) -> BTreeSet<(i64, i64)> {
    let (most_rows, most_columns) = ((180.0 * CELLS) as i64 - 1, (360.0 * CELLS) as i64 - 1);
    let cell = |x: f64, y: f64| {
        let row = ((y + 90.0) * CELLS).floor() as i64;
        let column = ((x + 180.0) * CELLS).floor() as i64;
        (row.clamp(0, most_rows), column.clamp(0, most_columns))
    };
    // Steps of a hundredth of a cell, and what is that near to the next one counts there as well: a
    // line that cuts a corner between two steps is none that is passed over.
    let step = 0.01 / CELLS;
    let mut cells = BTreeSet::new();
    for ring in rings {
        for pair in ring.windows(2) {
            let [(x0, y0), (x1, y1)] = *pair else { continue };
            let steps = ((x1 - x0).abs().max((y1 - y0).abs()) / step).ceil().max(1.0);
            for at in 0..=steps as i64 {
                let part = at as f64 / steps;
                let (x, y) = (x0 + part * (x1 - x0), y0 + part * (y1 - y0));
                for (dx, dy) in [(-step, -step), (-step, step), (step, -step), (step, step)] {
                    cells.insert(cell(x + dx, y + dy));
                }
            }
        }
    }
    // A cell that no line goes through is within as a whole, or not at all: by its middle, to the west of
    // which lines go by an odd number of times.
    for row in 0..=most_rows {
        let y = (row as f64 + 0.5) / CELLS - 90.0;
        let mut crossings = Vec::new();
        for pair in rings.iter().flat_map(|ring| ring.windows(2)) {
            let [(x0, y0), (x1, y1)] = *pair else { continue };
            if (y0 > y) != (y1 > y) {
                crossings.push(x0 + (y - y0) / (y1 - y0) * (x1 - x0));
            }
        }
        crossings.sort_by(f64::total_cmp);
        for pair in crossings.chunks_exact(2) {
            let first = ((pair[0] + 180.0) * CELLS - 0.5).ceil() as i64;
            let last = ((pair[1] + 180.0) * CELLS - 0.5).floor() as i64;
            cells.extend((first..=last).map(|column| (row, column.clamp(0, most_columns))));
        }
    }
    cells
}

fn read(path: &Path) -> Result<Value, Box<dyn std::error::Error>> {
    let text = fs::read_to_string(path).map_err(|fault| format!("{}: {fault}", path.display()))?;
    Ok(serde_json::from_str(&text).map_err(|fault| format!("{}: {fault}", path.display()))?)
}

/// Two-letter codes by ISO's numbers, three digits each.
fn numbers(mappings: &Value) -> BTreeMap<String, String> {
    let all = mappings["supplemental"]["codeMappings"].as_object().into_iter().flatten();
    let each = all.filter_map(|(code, other)| {
        let country = Country::from_code(code).filter(|country| country.code() == code)?;
        Some((other["_numeric"].as_str()?.to_owned(), country.code().to_owned()))
    });
    each.collect()
}

/// A file of TopoJSON, as far as it is read: <https://github.com/topojson/topojson-specification>.
#[derive(Deserialize)]
struct Topology {
    objects: Objects,
    arcs: Vec<Vec<[f64; 2]>>,
    transform: Transform,
}

#[derive(Deserialize)]
struct Objects {
    countries: Collection,
}

#[derive(Deserialize)]
struct Collection {
    geometries: Vec<Geometry>,
}

#[derive(Deserialize)]
struct Transform {
    scale: [f64; 2],
    translate: [f64; 2],
}

#[derive(Deserialize)]
struct Geometry {
    id: Option<String>,
    properties: Properties,
    #[serde(flatten)]
    shape: Shape,
}

#[derive(Deserialize)]
struct Properties {
    name: String,
}

/// Rings of arcs; the number of an arc that is walked backwards is its complement.
#[derive(Deserialize)]
#[serde(tag = "type", content = "arcs")]
enum Shape {
    Polygon(Vec<Vec<i64>>),
    MultiPolygon(Vec<Vec<Vec<i64>>>),
}

/// Points on the map.
type Ring = Vec<(f64, f64)>;

impl Geometry {
    /// The code of the country; `None` of land that has none.
    fn code(&self, numbers: &BTreeMap<String, String>) -> Option<String> {
        // ISO has no number for it.
        let by_name = (self.properties.name == "Kosovo").then(|| "XK".to_owned());
        by_name.or_else(|| numbers.get(self.id.as_ref()?).cloned())
    }
}

impl Topology {
    fn read(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let text =
            fs::read_to_string(path).map_err(|fault| format!("{}: {fault}", path.display()))?;
        Ok(serde_json::from_str(&text).map_err(|fault| format!("{}: {fault}", path.display()))?)
    }

    fn countries(&self) -> &[Geometry] {
        &self.objects.countries.geometries
    }

    /// An arc's points in degrees: each is written as its distance from the one before.
    fn arc(&self, number: usize) -> Ring {
        let Transform { scale, translate } = &self.transform;
        let (mut x, mut y) = (0.0, 0.0);
        let points = self.arcs.get(number).into_iter().flatten().map(|[dx, dy]| {
            x += dx;
            y += dy;
            (x * scale[0] + translate[0], y * scale[1] + translate[1])
        });
        points.collect()
    }

    /// The rings of a country, projected.
    fn rings(&self, geometry: &Geometry) -> Vec<Ring> {
        let projected = |ring: Ring| ring.into_iter().map(|(x, y)| project(x, y)).collect();
        self.outlines(geometry).into_iter().map(projected).collect()
    }

    /// The rings of a country in degrees, none over the 180th meridian.
    fn outlines(&self, geometry: &Geometry) -> Vec<Ring> {
        let rings: Vec<&Vec<i64>> = match &geometry.shape {
            Shape::Polygon(rings) => rings.iter().collect(),
            Shape::MultiPolygon(polygons) => polygons.iter().flatten().collect(),
        };
        let ring = |arcs: &Vec<i64>| {
            let mut points = Ring::new();
            for &number in arcs {
                let is_backwards = number < 0;
                let number = if is_backwards { !number } else { number };
                let mut arc = self.arc(usize::try_from(number).unwrap_or(usize::MAX));
                if is_backwards {
                    arc.reverse();
                }
                // Each arc begins where the one before ends.
                let skip = usize::from(!points.is_empty());
                points.extend(arc.into_iter().skip(skip));
            }
            points
        };
        rings.into_iter().flat_map(|arcs| halves(&ring(arcs))).collect()
    }
}

/// A ring in degrees; one that goes over the 180th meridian is cut there.
fn halves(ring: &Ring) -> Vec<Ring> {
    // Where it goes over it, its longitudes go on: 179, 181.
    let (mut turns, mut before) = (0.0, None);
    let whole = ring.iter().map(|&(longitude, latitude)| {
        if let Some(before) = before.replace(longitude) {
            let step: f64 = longitude - before;
            turns -= 360.0 * (step / 360.0).round();
        }
        (longitude + turns, latitude)
    });
    let whole: Ring = whole.collect();
    let shifted = [-360.0, 0.0, 360.0].map(|shift| {
        let ring: Ring = whole.iter().map(|&(x, y)| (x + shift, y)).collect();
        let east = clipped(&ring, |x| 180.0 - x);
        clipped(&east, |x| x + 180.0)
    });
    shifted.into_iter().filter(|ring| !ring.is_empty()).collect()
}

/// What of a closed ring is on one side of a meridian (Sutherland and Hodgman); `inside` is not
/// negative there.
fn clipped(ring: &Ring, inside: impl Fn(f64) -> f64) -> Ring {
    let mut kept = Ring::new();
    for pair in ring.windows(2) {
        let [(x0, y0), (x1, y1)] = *pair else { continue };
        let (from, to) = (inside(x0), inside(x1));
        if from >= 0.0 {
            kept.push((x0, y0));
        }
        if (from >= 0.0) != (to >= 0.0) {
            let part = from / (from - to);
            kept.push((x0 + part * (x1 - x0), y0 + part * (y1 - y0)));
        }
    }
    kept.extend(kept.first().copied());
    kept
}

/// The Equal Earth projection (Šavrič, Patterson and Jenny, 2018): areas are what they are, so that a
/// country in the north looks no larger than it is.
fn project(longitude: f64, latitude: f64) -> (f64, f64) {
    const A: [f64; 4] = [1.340264, -0.081106, 0.000893, 0.003796];
    let plane = |longitude: f64, latitude: f64| {
        let theta = (3_f64.sqrt() / 2.0 * latitude.to_radians().sin()).asin();
        let square = theta * theta;
        let sixth = square.powi(3);
        let slope = 9.0 * A[3] * sixth * square + 7.0 * A[2] * sixth + 3.0 * A[1] * square + A[0];
        let x = 2.0 * 3_f64.sqrt() * longitude.to_radians() * theta.cos() / (3.0 * slope);
        let y = theta * (A[3] * sixth * square + A[2] * sixth + A[1] * square + A[0]);
        (x, y)
    };
    let (east, _) = plane(180.0, 0.0);
    let (_, north) = plane(0.0, 84.0);
    let (x, y) = plane(longitude, latitude);
    let unit = WIDTH / (2.0 * east);
    ((x + east) * unit, (north - y) * unit)
}

/// A ring as a path of SVG: whole numbers, each point by its distance from the one before.
fn path(ring: &Ring) -> String {
    let mut points: Vec<(i64, i64)> =
        ring.iter().map(|(x, y)| (x.round() as i64, y.round() as i64)).collect();
    points.dedup();
    let mut text = String::new();
    let Some((&(mut x, mut y), rest)) = points.split_first() else { return text };
    if rest.len() < 3 {
        return text;
    }
    write!(text, "M{x} {y}l").ok();
    // The last point is the first one again, which `z` draws.
    for (at, &(next_x, next_y)) in rest.iter().take(rest.len() - 1).enumerate() {
        let (dx, dy) = (next_x - x, next_y - y);
        let between = |number: i64, is_first: bool| {
            if number < 0 || is_first { number.to_string() } else { format!(" {number}") }
        };
        text += &between(dx, at == 0);
        text += &between(dy, false);
        (x, y) = (next_x, next_y);
    }
    text.push('z');
    text
}

/// The middle of the largest ring: the centre of its area.
fn middle(rings: &[Ring]) -> (i64, i64) {
    let centre = |ring: &Ring| {
        let (mut area, mut x, mut y) = (0.0, 0.0, 0.0);
        for pair in ring.windows(2) {
            let [(x0, y0), (x1, y1)] = pair else { continue };
            let cross = x0 * y1 - x1 * y0;
            area += cross;
            x += (x0 + x1) * cross;
            y += (y0 + y1) * cross;
        }
        let known = ring.first().copied().unwrap_or_default();
        let at = if area == 0.0 { known } else { (x / (3.0 * area), y / (3.0 * area)) };
        (area.abs(), at)
    };
    let largest = rings.iter().map(centre).max_by(|one, other| one.0.total_cmp(&other.0));
    let (_, (x, y)) = largest.unwrap_or_default();
    (x.round() as i64, y.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_the_packages_give() {
        let Some(from) = std::env::var_os("SCHENGATE_PACKAGES").map(PathBuf::from) else {
            eprintln!("LEFT OUT: SCHENGATE_PACKAGES names no folder of unpacked packages");
            return;
        };
        let (world, countries) = build(&from).unwrap();
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/map");
        assert!(world == fs::read_to_string(kept.join("world.csv")).unwrap());
        assert!(countries == fs::read_to_string(kept.join("countries.csv")).unwrap());
        assert!(cells(&from).unwrap() == fs::read_to_string(kept.join("cells.csv")).unwrap());
    }

    #[test]
    fn the_projection_is_where_its_authors_have_it() {
        // x of Equal Earth at (180, 0) is 2.7066297, y at (0, 60) is 1.0500157... of a sphere of 1.
        let unit = WIDTH / (2.0 * 2.706_629_7);
        let (x, equator) = project(0.0, 0.0);
        assert!((x - WIDTH / 2.0).abs() < 1e-6);
        assert!((project(180.0, 0.0).0 - WIDTH).abs() < 1e-6);
        let north = (equator - project(0.0, 90.0).1) / unit;
        assert!((north - 1.317_362_8).abs() < 1e-4, "{north}");
    }

    #[test]
    fn a_ring_over_the_180th_meridian_is_cut_there() {
        let ring = vec![(170.0, 0.0), (-170.0, 0.0), (-170.0, 10.0), (170.0, 10.0), (170.0, 0.0)];
        let halves = halves(&ring);
        assert_eq!(halves.len(), 2);
        for half in halves {
            let (low, high) = half
                .iter()
                .fold((180_f64, -180_f64), |(low, high), &(x, _)| (low.min(x), high.max(x)));
            assert!(high - low < 11.0, "{half:?}");
        }
        // One that does not is left as it is.
        let ring = vec![(10.0, 0.0), (20.0, 0.0), (20.0, 10.0), (10.0, 0.0)];
        assert_eq!(super::halves(&ring), [ring]);
    }

    #[test]
    fn a_country_touches_the_cells_it_goes_through_and_those_within() {
        let square = |low: f64, high: f64| -> Ring {
            vec![(low, low), (high, low), (high, high), (low, high), (low, low)]
        };
        // Rows and columns of half degrees from -90 and -180: 0 is in (180, 360).
        let cells = touched(&[square(0.1, 1.9)]);
        let wanted = (180..184).flat_map(|row| (360..364).map(move |column| (row, column)));
        assert_eq!(cells, wanted.collect());
        // A hole of whole cells is none of it, and its edge is.
        let cells = touched(&[square(0.1, 9.9), square(2.1, 7.9)]);
        assert!(cells.contains(&(184, 364)) && !cells.contains(&(190, 370)));
        // A point of land is a cell, or those that it is between.
        assert_eq!(touched(&[square(0.2, 0.201)]).len(), 1);
        assert_eq!(touched(&[square(0.0, 0.001)]).len(), 4);
        // Nothing is outside of the earth.
        let edge = vec![(179.9, 89.9), (180.0, 89.9), (180.0, 90.0), (179.9, 89.9)];
        assert_eq!(touched(&[edge]).into_iter().collect::<Vec<_>>(), [(359, 719)]);
    }

    #[test]
    fn a_ring_is_drawn_and_one_of_no_size_is_not() {
        let square = vec![(1.0, 1.0), (5.0, 1.0), (5.0, 4.0), (1.0, 4.0), (1.0, 1.0)];
        assert_eq!(path(&square), "M1 1l4 0 0 3-4 0z");
        assert_eq!(middle(&[square]), (3, 3));
        assert_eq!(path(&vec![(1.0, 1.0), (1.1, 1.2), (1.0, 1.0)]), "");
    }
}
