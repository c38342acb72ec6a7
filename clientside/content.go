package clientside

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/cmkeeper/cmkeeper/envelope"
)

// ByContent recognises data by what an object of size bytes begins with: head has the
// first HeadSize bytes, or all of them. Only an object that is given whole can be
// re-wrapped. SOPS files have their wrapped keys at the end, so that of those only a
// suspicion comes back (Partial) where head is not all, and not even that where the first
// encrypted value comes later. What comes back keeps head, which may not be changed.
func ByContent(head []byte, size int64) Found {
	whole := int64(len(head)) == size
	if size < int64(len(head)) {
		return Found{}
	}
	for _, recognise := range []func([]byte, int64) Found{ofEnvelope, ofEncryptionSDK, ofTink, ofKMS, ofSOPS, ofKeyset} {
		f := recognise(head, size)
		if f.Format == None {
			continue
		}
		f.Place = InBody
		f.Partial = !whole
		if f.Refusal == "" && size > MaxBody {
			f.Refusal = fmt.Sprintf("it has %d bytes, and its body would have to be written anew, which is done up to %d", size, MaxBody)
		}
		if whole && f.Refusal == "" {
			f.body = head
			f.again = func(b []byte) (Found, error) { return ByContent(b, int64(len(b))), nil }
		}
		return f
	}
	return Found{}
}

// ofEnvelope recognises messages of package envelope.
func ofEnvelope(head []byte, _ int64) Found {
	h, err := envelope.ReadHeader(bytes.NewReader(head))
	if err != nil {
		return Found{}
	}
	return Found{
		Format: Envelope, Sure: true,
		Keys: []Key{{Wrapped: h.WrappedKey, Context: h.Context, Label: h.KeyARN}},
		slots: []slot{func(k Key) ([]edit, error) {
			header, err := h.Rewrapped(k.Label, k.Wrapped)
			return []edit{{0, h.Size, string(header)}}, err
		}},
	}
}

// ofTink recognises ciphertexts of Tink's KMS envelope AEAD: the length of the wrapped key
// in four bytes, the wrapped key, the ciphertext (tink-go, aead/kms_envelope_aead.go). A
// keyset may put five bytes before that, of which the first is 0 or 1 (cryptofmt). Tink
// wraps keys without an encryption context.
func ofTink(head []byte, size int64) Found {
	const most = 4096 // tink-go's maxLengthEncryptedDEK
	for _, prefix := range []int{0, 5} {
		if len(head) < prefix+4 || prefix > 0 && head[0] > 1 {
			continue
		}
		start := prefix + 4
		n := binary.BigEndian.Uint32(head[prefix:])
		if n > most || int(n) > len(head)-start || int64(start)+int64(n) >= size || !looksLikeKMS(head[start:start+int(n)]) {
			continue
		}
		return Found{
			Format: Tink, Keys: []Key{{Wrapped: bytes.Clone(head[start : start+int(n)]), Context: map[string]string{}}},
			slots: []slot{func(k Key) ([]edit, error) {
				if len(k.Wrapped) > most {
					return nil, fmt.Errorf("the wrapped key has %d bytes, and Tink reads %d at most", len(k.Wrapped), most)
				}
				return []edit{{prefix, start + int(n), string(appendSized(nil, k.Wrapped))}}, nil
			}},
		}
	}
	return Found{}
}

func appendSized(out, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(out, uint32(len(b))), b...)
}

// ofKMS recognises what KMS Encrypt or GenerateDataKey returned.
func ofKMS(head []byte, size int64) Found {
	if size != int64(len(head)) || !looksLikeKMS(head) {
		return Found{}
	}
	return Found{
		Format: KMSCiphertext, Keys: []Key{{Wrapped: bytes.Clone(head), ContextUnknown: true}},
		slots: []slot{func(k Key) ([]edit, error) { return []edit{{0, len(head), string(k.Wrapped)}}, nil }},
	}
}

// looksLikeKMS reports whether b looks like a ciphertext of a symmetric KMS key. AWS does
// not document what they look like. Those that we have found in public repositories have a
// header that begins with 1, 1 to 3, 1 to 3, 0, 120, then the length of the rest in four
// bytes, and that rest is a PKCS #7 structure of the type encryptedData, in DER. An older
// kind, which begins with 10, 32, is not recognised.
func looksLikeKMS(b []byte) bool {
	if len(b) > maxBlob || len(b) < 5 || b[0] != 1 || b[1] < 1 || b[1] > 3 || b[2] < 1 || b[2] > 3 || b[3] != 0 || b[4] != 120 {
		return false
	}
	oid := []byte{6, 9, 42, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 6} // 1.2.840.113549.1.7.6
	at := bytes.Index(b[:min(len(b), 128)], oid)
	for start := at - 4; start <= at-2; start++ { // the tag and one to three bytes of length
		if start >= 4 && b[start] == 0x30 && int64(binary.BigEndian.Uint32(b[start-4:])) == int64(len(b)-start) {
			return true
		}
	}
	return false
}

// ofEncryptionSDK recognises messages of the AWS Encryption SDK by their header
// (message-header.md of its specification), and names the keys that KMS wrapped. One
// whose header is not in head to its end is not recognised.
func ofEncryptionSDK(head []byte, _ int64) Found {
	var messageID int
	in := &reader{b: head}
	switch {
	case len(head) > 4 && head[0] == 1 && head[1] == 0x80 && slices.Contains(suites[1], binary.BigEndian.Uint16(head[2:])):
		in.take(4)
		messageID = 16
	case len(head) > 3 && head[0] == 2 && slices.Contains(suites[2], binary.BigEndian.Uint16(head[1:])):
		in.take(3)
		messageID = 32
	default:
		return Found{}
	}
	in.take(messageID)
	context := map[string]string{}
	aad := &reader{b: in.sized()}
	if len(aad.b) > 0 {
		for n := aad.number(); n > 0 && !aad.cut; n-- {
			name := string(aad.sized())
			context[name] = string(aad.sized())
		}
	}
	f := Found{Format: EncryptionSDK, Sure: true, Refusal: "its header, wrapped keys included, is authenticated with its data key: it has to be decrypted and encrypted again"}
	count := in.number()
	for n := count; n > 0 && !in.cut; n-- {
		provider, info, wrapped := string(in.sized()), string(in.sized()), in.sized()
		if provider == "aws-kms" && !in.cut && len(f.Keys) < maxKeys {
			f.Keys = append(f.Keys, Key{Wrapped: bytes.Clone(wrapped), Context: maps.Clone(context), Label: info})
		}
	}
	if in.cut || aad.cut || count == 0 {
		return Found{} // Anything may begin with these few bytes. That all of a header can be read is no chance.
	}
	return f
}

// suites are the algorithm suites of the AWS Encryption SDK, by version of the message
// (algorithm-suites.md of its specification).
var suites = map[byte][]uint16{
	1: {0x0014, 0x0046, 0x0078, 0x0114, 0x0146, 0x0178, 0x0214, 0x0346, 0x0378},
	2: {0x0478, 0x0578},
}

// reader reads one field after the other. After the end, fields are empty and cut is set.
type reader struct {
	b   []byte
	cut bool
}

func (r *reader) take(n int) []byte {
	if r.cut = r.cut || n > len(r.b); r.cut {
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) number() int {
	if b := r.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) sized() []byte { return r.take(r.number()) }
