package clientside

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
)

// Where a keyset that Tink encrypted has what KMS returned, and what it tells of its keys
// in plain text (EncryptedKeyset of tink.proto). All of Tink's writers of JSON use these
// names and base64 with padding; some of those of the binary form leave the latter out.
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
		if named && bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("{")) {
			return Found{Format: TinkKeyset}
		}
		return Found{}
	}
	find := binaryKeyset
	if named {
		find = jsonKeyset
	}
	sealed, put, sure := find(head)
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
		return []edit{put(apply(sealed, edits))}, err
	}
	return f
}

// jsonKeyset returns what is encrypted in the JSON form, how other bytes get into its
// place, and whether the keyset tells of its keys.
func jsonKeyset(body []byte) (sealed []byte, put func([]byte) edit, sure bool) {
	all, err := scanJSON(body, "")
	if err != nil {
		return nil, nil, false
	}
	for _, v := range all {
		switch {
		case v.path[0] == infoMember && len(v.path) > 1:
			sure = true
		case v.path[0] == keysetMember && len(v.path) == 1:
			if sealed, err = base64.StdEncoding.DecodeString(v.text); err != nil {
				return nil, nil, false
			}
			put = func(b []byte) edit { return v.replace(encode(b)) }
		}
	}
	return sealed, put, sure
}

// binaryKeyset is jsonKeyset for the binary form, of which it is never sure.
func binaryKeyset(body []byte) (sealed []byte, put func([]byte) edit, sure bool) {
	sealed, rest := protoField(body, keysetTag)
	if end := len(body) - len(rest); sealed != nil {
		put = func(b []byte) edit {
			return edit{0, end, string(append(binary.AppendUvarint([]byte{keysetTag}, uint64(len(b))), b...))}
		}
	}
	if len(rest) > 0 {
		if _, rest = protoField(rest, infoTag); len(rest) > 0 {
			return nil, nil, false
		}
	}
	return sealed, put, false
}

// protoField returns the field of Protocol Buffers that b begins with, and what follows it;
// no field and b where b does not begin with one of that tag.
func protoField(b []byte, tag byte) (value, rest []byte) {
	if len(b) == 0 || b[0] != tag {
		return nil, b
	}
	n, width := binary.Uvarint(b[1:])
	start := 1 + width
	if width <= 0 || n > uint64(len(b)-start) {
		return nil, b
	}
	return b[start : start+int(n)], b[start+int(n):]
}
