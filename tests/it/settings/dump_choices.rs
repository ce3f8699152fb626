//! What a source says of a dump's tables, types and values.

use relevo_mysqldump::{BigintUnsigned, InvalidTextPolicy, LossPolicy, TypeChoice};

use super::World;

const SOURCE: &str = "[backup.shop]\ngateway_url = \"https://g.example\"\napi_key = \"k\"\n\
                      target_url = \"postgres://db/shop\"\n";

#[test]
fn tables_types_and_policies_are_read() {
    let file = format!(
        "{SOURCE}only = [\"art*\", \"venta\"]\nrename = [\"articulo=article\"]\nwhere = \"\"\"\n\
         article=precio > 0, or = true\nventa=fecha >= '2024-01-01'\n\"\"\"\n\
         types = \"\"\"\nbinary(16)=uuid\ndecimal(10,2)=numeric\n\"\"\"\n\
         columns = \"articulo.oferta=boolean\"\nzero_dates = \"fail\"\n\
         invalid_text = \"windows1252\"\nbigint_unsigned = \"bigint\"\n"
    );
    let dump = World::file(&file).settings().backup["shop"].dump.clone();
    assert_eq!(dump.only, ["art*", "venta"]);
    assert_eq!(dump.rename["articulo"], "article");
    // Only the first sign of equality divides, and a comma is part of a condition.
    assert_eq!(dump.filters["article"], "precio > 0, or = true");
    assert_eq!(dump.filters["venta"], "fecha >= '2024-01-01'");
    let translate = &dump.translate;
    assert_eq!(translate.types["binary(16)"], TypeChoice::Uuid);
    assert_eq!(translate.types["decimal(10,2)"], TypeChoice::Numeric);
    assert_eq!(translate.columns["articulo.oferta"].pg_type, Some(TypeChoice::Boolean));
    assert_eq!(translate.invalid_dates, LossPolicy::Fail);
    assert_eq!(translate.nul_chars, LossPolicy::Adapt);
    assert_eq!(translate.invalid_text, InvalidTextPolicy::Windows1252);
    assert_eq!(translate.bigint_unsigned, BigintUnsigned::Bigint);
}

#[test]
fn what_makes_no_sense_is_named() {
    for (line, said) in [
        ("types = \"binary(16)\"", "has not the form NAME=VALUE"),
        ("types = \"int=number\"", "unknown variant `number`"),
        ("columns = \"a.b=text\\na.b=json\"", "is there twice"),
        ("zero_dates = \"ignore\"", "unknown variant `ignore`"),
        ("rename = [\"articulo\"]", "has not the form NAME=VALUE"),
    ] {
        let refusal = World::file(&format!("{SOURCE}{line}\n")).refusal();
        assert!(refusal.contains(said), "{line}: {refusal}");
    }
}

/// A value that is not the preset.
pub(super) fn other_value(key: &str) -> &'static str {
    match key {
        "database" => "tienda",
        "only" | "exclude" => "art*,venta",
        "rename" => "articulo=article",
        "where" => "venta=total > 0",
        "types" => "binary(16)=uuid",
        "columns" => "venta.pagada=boolean",
        "zero_dates" | "nul_chars" | "out_of_range" | "invalid_text" => "fail",
        "bigint_unsigned" => "bigint",
        "json_type" | "set_type" => "text",
        "inet_type" => "inet",
        "geometry_type" => "postgis",
        "source_time_zone" => "-06:00",
        "source_charset" => "latin1",
        other => panic!("give a value for backup.sicar.{other}"),
    }
}
