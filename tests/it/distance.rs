//! How far countries are at the least, held against cities: coordinates from general knowledge, and the
//! plain haversine on the mean sphere.

use proptest::prelude::*;
use schengate::policy::{Country, CountrySet};
use schengate::report::distance::{
    CLOCK_US, Distances, MICROSECONDS_A_KILOMETRE, NoPosition, Position,
};
use serde_json::Value;

use crate::export::schengate;

/// A city, its country, degrees north and east.
const CITIES: &[(&str, &str, f64, f64)] = &[
    ("Paris", "FR", 48.857, 2.352),
    ("Marseille", "FR", 43.296, 5.370),
    ("Cayenne", "FR", 4.922, -52.313),
    ("Munich", "DE", 48.137, 11.576),
    ("Frankfurt", "DE", 50.110, 8.682),
    ("Amsterdam", "NL", 52.370, 4.895),
    ("Dublin", "IE", 53.350, -6.260),
    ("London", "GB", 51.507, -0.128),
    ("Lerwick", "GB", 60.155, -1.145),
    ("Madrid", "ES", 40.417, -3.704),
    ("Las Palmas", "ES", 28.124, -15.430),
    ("Lisbon", "PT", 38.722, -9.139),
    ("Ponta Delgada", "PT", 37.741, -25.676),
    ("Stockholm", "SE", 59.329, 18.069),
    ("Oslo", "NO", 59.914, 10.752),
    ("Longyearbyen", "NO", 78.223, 15.647),
    ("Helsinki", "FI", 60.170, 24.938),
    ("Warsaw", "PL", 52.230, 21.012),
    ("Vienna", "AT", 48.208, 16.373),
    ("Zurich", "CH", 47.377, 8.541),
    ("Luxembourg", "LU", 49.612, 6.130),
    ("Vaduz", "LI", 47.141, 9.521),
    ("Valletta", "MT", 35.899, 14.514),
    ("Rome", "IT", 41.903, 12.496),
    ("Vatican City", "VA", 41.903, 12.453),
    ("Reykjavik", "IS", 64.147, -21.943),
    ("Moscow", "RU", 55.756, 37.617),
    ("Kaliningrad", "RU", 54.710, 20.511),
    ("Petropavlovsk-Kamchatsky", "RU", 53.024, 158.643),
    ("Anadyr", "RU", 64.735, 177.518),
    ("Ashburn", "US", 39.044, -77.488),
    ("Seattle", "US", 47.606, -122.332),
    ("Anchorage", "US", 61.218, -149.900),
    ("Honolulu", "US", 21.307, -157.858),
    ("Toronto", "CA", 43.653, -79.383),
    ("Mexico City", "MX", 19.433, -99.133),
    ("Sao Paulo", "BR", -23.550, -46.633),
    ("Santiago", "CL", -33.449, -70.669),
    ("Hanga Roa", "CL", -27.150, -109.433),
    ("Johannesburg", "ZA", -26.204, 28.047),
    ("Maseru", "LS", -29.310, 27.480),
    ("Nairobi", "KE", -1.292, 36.822),
    ("Cairo", "EG", 30.044, 31.236),
    ("Dubai", "AE", 25.205, 55.271),
    ("Mumbai", "IN", 19.076, 72.878),
    ("Singapore", "SG", 1.352, 103.820),
    ("Jakarta", "ID", -6.175, 106.827),
    ("Hong Kong", "HK", 22.320, 114.169),
    ("Beijing", "CN", 39.904, 116.407),
    ("Tokyo", "JP", 35.690, 139.692),
    ("Seoul", "KR", 37.566, 126.978),
    ("Sydney", "AU", -33.869, 151.209),
    ("Perth", "AU", -31.950, 115.860),
    ("Auckland", "NZ", -36.848, 174.763),
    ("Waitangi, Chatham", "NZ", -43.951, -176.561),
    ("Suva", "FJ", -18.142, 178.442),
];

fn country(code: &str) -> Country {
    Country::from_code(code).unwrap()
}

fn set(codes: &[&str]) -> CountrySet {
    codes.iter().map(|code| country(code)).collect()
}

/// What `schengate explain` says of an address that a policy places in these countries.
fn explained(position: &str, location: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let policy = format!(
        "schema = 1
[policy]
permit = ['*']
[audit]
directory = '{}'
{position}
[[place]]
to = ['198.51.100.0/24']
{location}
",
        dir.path().display()
    );
    let file = dir.path().join("policy.toml");
    std::fs::write(&file, policy).unwrap();
    let file = file.to_str().unwrap();
    let told = |more: &[&str]| {
        let given = [&["explain", "--config", file, "--to", "198.51.100.7"], more].concat();
        let (code, out, said) = schengate(&given);
        // Anycast is refused.
        assert!(code < 2, "{said}");
        out
    };
    let json: Value = serde_json::from_str(&told(&["--json"])).unwrap();
    let least = json["location"]["rtt_least_us"].clone();
    assert_eq!(told(&[]).contains("light in fibre takes"), !least.is_null(), "{json}");
    least
}

#[test]
fn explain_says_the_shortest_round_trip_where_it_is_known_where_the_gateway_stands() {
    let munich = "position = '48.14,11.58'";
    let of = |location: &str| explained(munich, location).as_u64();
    // 780 to 1,000 km, by 9.75 µs.
    assert!(of("location = ['ES']").is_some_and(|least| (7_600..9_750).contains(&least)));
    assert_eq!(of("location = ['ES', 'DE']"), Some(0));
    assert_eq!(of("anycast = true"), None);
    assert_eq!(explained("", "location = ['ES']"), Value::Null);
    assert!(explained("position = 'DE'", "location = ['US']").as_u64() > Some(40_000));
}

/// Kilometres on the mean sphere of the earth.
fn haversine((north, east): (f64, f64), (other_north, other_east): (f64, f64)) -> f64 {
    let half = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let square = half(other_north - north)
        + north.to_radians().cos() * other_north.to_radians().cos() * half(other_east - east);
    2.0 * 6371.0088 * square.sqrt().min(1.0).asin()
}

#[test]
fn no_country_is_said_to_be_farther_than_a_city_in_it() {
    for (from, _, latitude, longitude) in CITIES {
        let (latitude, longitude) = (*latitude, *longitude);
        let distances = Distances::of(Position::Point { latitude, longitude });
        for (to, code, north, east) in CITIES {
            let told = distances.kilometres(country(code));
            let true_one = haversine((latitude, longitude), (*north, *east));
            assert!(told <= true_one, "{from} to {to}: {told} km, and it is {true_one}");
        }
    }
}

#[test]
fn a_country_as_a_position_is_anywhere_in_it() {
    for code in ["DE", "FR", "LI", "VA", "IT", "ZA", "LS", "FJ", "US"] {
        let distances = Distances::of(Position::Country(country(code)));
        for (city, _, latitude, longitude) in CITIES.iter().filter(|(_, of, ..)| *of == code) {
            let (latitude, longitude) = (*latitude, *longitude);
            let of_city = Distances::of(Position::Point { latitude, longitude });
            for other in Country::all() {
                let (all, one) = (distances.kilometres(other), of_city.kilometres(other));
                assert!(all <= one + 1e-6, "{code} to {other}: {all} km, and {one} from {city}");
            }
        }
        assert_eq!(distances.kilometres(country(code)), 0.0, "{code}");
    }
    let from = |code: &str| Distances::of(Position::Country(country(code)));
    // What lies in another one is no distance away.
    assert_eq!(from("ZA").kilometres(country("LS")), 0.0);
    assert_eq!(from("IT").kilometres(country("VA")), 0.0);
    assert!(from("DE").kilometres(country("US")) > 4500.0);
    assert!(from("DE").kilometres(country("IE")) > 650.0);
}

#[test]
fn what_is_far_is_said_to_be_far() {
    let from = |city: &str| {
        let (_, _, latitude, longitude) = *CITIES.iter().find(|(name, ..)| *name == city).unwrap();
        Distances::of(Position::Point { latitude, longitude })
    };
    // Measured on maps, to the nearest coast or border, and some 60 km taken off.
    let wanted = [
        ("Munich", "ES", 780.0, 1000.0),
        ("Munich", "US", 5300.0, 6200.0),
        ("Munich", "IE", 1080.0, 1300.0),
        ("Frankfurt", "FR", 50.0, 160.0),
        ("Dublin", "IS", 1250.0, 1500.0),
        ("Paris", "RU", 1100.0, 1400.0),
        ("Tokyo", "US", 2500.0, 4200.0),
        ("Auckland", "FJ", 1500.0, 2200.0),
        ("Anadyr", "US", 300.0, 700.0),
        ("Suva", "NZ", 1200.0, 2200.0),
    ];
    for (city, code, least, most) in wanted {
        let told = from(city).kilometres(country(code));
        assert!((least..most).contains(&told), "{city} to {code}: {told} km");
    }
    for (city, code, ..) in CITIES {
        assert_eq!(from(city).kilometres(country(code)), 0.0, "{city} is in {code}");
    }
}

#[test]
fn a_round_trip_contradicts_a_location_only_where_every_country_is_too_far() {
    let munich = Distances::of("48.14,11.58".parse().unwrap());
    let contradicted =
        |codes: &[&str], round_trip| munich.contradicted(set(codes), round_trip) == set(codes);
    assert!(contradicted(&["ES"], 5_000) && contradicted(&["US"], 40_000));
    assert!(
        !contradicted(&["DE"], 1) && !contradicted(&["AT"], 1) && !contradicted(&["US"], 90_000)
    );
    // One of them would do.
    assert!(contradicted(&["US", "ES"], 5_000) && !contradicted(&["US", "DE"], 5_000));
    assert!(munich.contradicted(set(&["US", "DE"]), 1).is_empty());
    assert!(munich.contradicted(CountrySet::EMPTY, 1).is_empty());
    // Of a country without a shape nothing is known, and neither is it where a gateway could stand.
    assert!(munich.contradicted(set(&["GF"]), 1).is_empty());
    assert_eq!("GF".parse::<Position>(), Err(NoPosition));
}

#[test]
fn light_in_fibre_needs_some_ten_microseconds_for_a_kilometre_and_back() {
    // 299,792.458 km/s by the index of ordinary fibre, 1.468: 204 km in a millisecond, one way.
    let ordinary = 2.0 * 1e6 / (299_792.458 / 1.468);
    assert!(MICROSECONDS_A_KILOMETRE < ordinary && MICROSECONDS_A_KILOMETRE > ordinary * 0.99);
}

#[test]
fn positions_are_read_and_nothing_else_is() {
    assert_eq!("DE".parse(), Ok(Position::Country(country("DE"))));
    let point = Position::Point { latitude: -48.14, longitude: 180.0 };
    assert_eq!(" -48.14, 180".parse(), Ok(point));
    assert_eq!(point.to_string().parse(), Ok(point));
    for bad in
        ["", "ZZ", "EU", "DE,FR", "91,0", "0,181", "NaN,0", "inf,0", "48.14", "1,2,3", "48,14"]
    {
        let read = bad.parse::<Position>();
        // Two whole numbers are a point, whatever was meant.
        assert_eq!(read.is_err(), bad != "48,14", "{bad}: {read:?}");
    }
}

proptest! {
    /// A longer time contradicts no more, half the earth contradicts nothing, and of more countries there
    /// is rather one where it may be.
    #[test]
    fn a_longer_round_trip_and_more_countries_contradict_no_more(
        latitude in -90.0..90.0_f64,
        longitude in -180.0..180.0_f64,
        codes in proptest::collection::vec(0..Country::COUNT, 1..4),
        shorter in 0..200_000_u32,
        more in 0..200_000_u32,
    ) {
        let distances = Distances::of(Position::Point { latitude, longitude });
        let countries: CountrySet = codes.iter().filter_map(|&at| Country::from_index(at)).collect();
        let is_contradicted = |set: CountrySet, round_trip: u32| {
            let told = distances.contradicted(set, round_trip);
            assert!(told.is_empty() || told == set);
            !told.is_empty()
        };
        if is_contradicted(countries, shorter + more) {
            prop_assert!(is_contradicted(countries, shorter));
        }
        if is_contradicted(countries, shorter) {
            for one in countries.iter() {
                prop_assert!(is_contradicted([one].into_iter().collect(), shorter));
                let needed = distances.kilometres(one) * MICROSECONDS_A_KILOMETRE;
                prop_assert!(needed > f64::from(shorter + CLOCK_US));
            }
        }
        // Half of the way around, 20,004 km.
        prop_assert!(!is_contradicted(countries, 196_000));
    }

    /// Who goes a way is no farther from anything than by that way.
    #[test]
    fn a_step_changes_no_distance_by_more_than_its_length(
        latitude in -89.0..89.0_f64,
        longitude in -179.0..179.0_f64,
        north in -1.0..1.0_f64,
        east in -1.0..1.0_f64,
        at in 0..Country::COUNT,
    ) {
        let here = Distances::of(Position::Point { latitude, longitude });
        let (there_north, there_east) = (latitude + north, longitude + east);
        let there =
            Distances::of(Position::Point { latitude: there_north, longitude: there_east });
        let country = Country::from_index(at).unwrap();
        let step = haversine((latitude, longitude), (there_north, there_east));
        let apart = (here.kilometres(country) - there.kilometres(country)).abs();
        prop_assert!(apart <= step + 1e-6, "{country}: {apart} km by a step of {step}");
    }
}
