"""URLs of brokers: what is read, what is explained, and that no password is ever shown."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError
from broker.urls import Address, masked, masked_setting, parse_url, parse_urls, with_password

SECRETS = st.text(st.characters(min_codepoint=33, categories=("L", "N", "P", "S")), max_size=12).map(
    "pA55-{}".format
)
USERS = st.text("abcXYZ019._-@/#?:", min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z0-9]{1,8}){0,3}", fullmatch=True)
ZONES = st.sampled_from(["", "%eth0", "%wlan0", "%2", "%25"])
IPV6 = st.builds(lambda address, zone: str(address) + zone, st.ip_addresses(v=6), ZONES)
HOSTS = NAMES | st.ip_addresses(v=4).map(str) | IPV6.filter(lambda text: "::ffff:" not in text)
ADDRESSES = st.builds(
    Address, HOSTS, st.integers(1, 65535), st.booleans(), st.none() | USERS, st.none() | SECRETS
).filter(lambda address: address.username is not None or address.password is None)


def refusal(url: str) -> str:
    """Give what is said against a URL; nothing if it is read."""
    try:
        parse_url(url)
    except BrokerError as error:
        return str(error)
    return ""


@given(ADDRESSES)
def test_what_is_written_is_read_again(address: Address) -> None:
    assert parse_url(address.secret) == address
    assert parse_url(address.without_password) == Address(
        address.host, address.port, address.tls, address.username
    )
    assert parse_url(str(address)) == Address(address.host, address.port, address.tls)


@given(st.lists(ADDRESSES, min_size=1, max_size=4, unique=True))
def test_several_are_read_with_commas_between_them_or_one_by_one(addresses: list[Address]) -> None:
    urls = [address.secret for address in addresses]
    assert parse_urls(",".join(urls)) == parse_urls(", ".join(urls)) == parse_urls(urls) == tuple(addresses)


@given(ADDRESSES)
def test_only_the_secret_form_shows_the_password(address: Address) -> None:
    if address.password is not None:
        for text in (str(address), repr(address), address.without_password, f"{address}"):
            assert address.password not in text
            assert quote(address.password, safe="") not in text


@given(st.builds("{}{}{}".format, SECRETS, st.sampled_from("#/?[]@"), SECRETS), HOSTS)
def test_a_password_that_is_not_encoded_is_explained_and_not_repeated(password: str, host: str) -> None:
    place = f"[{host}]" if ":" in host else host
    url = f"mqtt://dev:{password}@{place}:1883"
    words = refusal(url)
    assert words.startswith("not the URL of a broker: in a user name or password write ")
    assert password not in words


@pytest.mark.parametrize(
    ("char", "code"), [("#", "%23"), ("/", "%2F"), ("?", "%3F"), ("@", "%40"), ("%", "%25")]
)
def test_the_code_of_a_character_is_told(char: str, code: str) -> None:
    with pytest.raises(BrokerError, match=f"'{char}' as {code}".replace("?", r"\?")) as caught:
        parse_url(f"mqtts://dev:hunter{char}zzz@host")
    assert "hunter" not in str(caught.value)
    assert "--password-file" in str(caught.value)


@given(st.text(min_size=12))
def test_nothing_that_cannot_be_read_is_repeated(text: str) -> None:
    for url in (text, f"mqtt://{text}", f"mqtts://u:{text}", f"mqtt://u@{text}", f"mqtt://[{text}]"):
        assert text not in refusal(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mqtt://::1:1883", "brackets"),
        ("mqtt://[10.0.0.1]", "IPv6"),
        ("mqtt://[::1", "brackets|%23|port"),
        ("mqtt://h:0", "1 to 65535"),
        ("mqtt://h:65536", "1 to 65535"),
        ("mqtt://h:", "1 to 65535"),
        ("mqtt://:secret@h", "name of a user"),
        ("mqtt://u:%FF%FE@h", "UTF-8"),
        ("mqtt://u:%00@h", "control characters"),
        ("mqtt://u:se#cret", "1 to 65535"),
        ("mqtt://a,b", "%23"),
    ],
)
def test_mistakes_are_told_one_from_another(url: str, words: str) -> None:
    with pytest.raises(BrokerError, match=words):
        parse_url(url)


def test_no_url_at_all_is_a_mistake() -> None:
    with pytest.raises(BrokerError, match="no URL"):
        parse_urls([])


def test_a_password_goes_to_every_user_that_has_none() -> None:
    read = parse_urls("mqtt://a@h,mqtt://b:own@h,mqtt://h")
    assert [address.password for address in with_password(read, "p")] == ["p", "own", None]
    with pytest.raises(BrokerError, match="no user name"):
        with_password(parse_urls("mqtt://h"), "p")


@given(SECRETS)
def test_texts_and_settings_are_masked(password: str) -> None:
    url = f"mqtt://dev:{password}@host"
    assert password not in masked(f"a line with {url} in it")
    assert password not in masked_setting(f"--set broker.url={url}")
    assert password not in masked_setting(f"--set broker={{kind: url, url: '{url}'}}")
    assert password not in masked_setting(f"--set {url}")
    assert password not in masked(f"mqtt://dev:{password}")
    assert masked("mqtt://[::1]:1883 and mqtts://h:8883, http://a.b/c") == (
        "mqtt://[::1]:1883 and mqtts://h:8883, http://a.b/c"
    )
    assert masked_setting("--set training.cohort=5") == "--set training.cohort=5"
