package clientside

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
)

// The members of an encrypted keyset of Tink (EncryptedKeyset of tink.proto): the ciphertext
// that KMS returned, and a description of the keys in plain text. All of Tink's writers of
// JSON use these names and base64 with padding; some of those of the binary form leave the
// description out.
const (
	keysetMember = "encryptedKeyset"
	infoMember   = "keysetInfo"
	keysetTag    = 2<<3 | 2
	infoTag      = 3<<3 | 2
)

// ofKeyset recognises an encrypted keyset of Tink, in JSON or binary. KMS itself has
// encrypted the keyset, or Tink's KMS envelope AEAD. Associated data are the encryption
// context of the former and are not stored. What KMS has encrypted itself (4096 bytes at
// most) fits into HeadSize; of longer ones in JSON, a suspicion comes back.
func ofKeyset(head []byte, size int64) Found {
	const most = 64 << 10 // ours
	if size > most {
		return Found{}
	}
	named := bytes.Contains(head, []byte(`"`+keysetMember+`"`))
	if size > int64(len(head)) {
		if named {
			return Found{Format: TinkKeyset}
		}
		return Found{}
	}
	find := binaryKeyset
	if named {
		find = jsonKeyset
	}
	sealed, at, sure := find(head)
	f := ofKMS(sealed, int64(len(sealed)))
	if f.Format == None {
		f = ofTink(sealed, int64(len(sealed)))
	}
	if f.Format == None {
		return Found{}
	}
	within := f.slots[0]
	f.Format, f.Sure = TinkKeyset, sure
	f.slots[0] = func(k Key) ([]edit, error) {
		edits, err := within(k)
		b := apply(sealed, edits)
		text := encode(b)
		if !named {
			text = string(binary.AppendUvarint([]byte{keysetTag}, uint64(len(b)))) + string(b)
		}
		return []edit{at.replace(text)}, err
	}
	return f
}

// jsonKeyset returns what is encrypted in the JSON form, where its base64 stands, and
// whether the keyset has a description of its keys.
func jsonKeyset(body []byte) (sealed []byte, at span, sure bool) {
	all, err := scanJSON(body, "")
	if err != nil {
		return nil, at, false
	}
	for _, v := range all {
		switch {
		case v.path[0] == infoMember && len(v.path) > 1:
			sure = true
		case v.path[0] == keysetMember && len(v.path) == 1:
			if sealed, err = base64.StdEncoding.DecodeString(v.text); err != nil {
				return nil, at, false
			}
			at = v.span
		}
	}
	return sealed, at, sure
}

// binaryKeyset is jsonKeyset for the binary form, of which it is never sure. What it
// returns stands in a field that has the tag and the length, too.
func binaryKeyset(body []byte) (sealed []byte, at span, sure bool) {
	if len(body) == 0 || body[0] != keysetTag {
		return nil, at, false
	}
	n, width := binary.Uvarint(body[1:])
	start := 1 + width
	if width <= 0 || n > uint64(len(body)-start) {
		return nil, at, false
	}
	at.end = start + int(n)
	if at.end < len(body) && body[at.end] != infoTag {
		return nil, at, false
	}
	return body[start:at.end], at, false
}
