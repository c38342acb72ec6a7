// Package clientside recognises data that an application encrypted before it stored them
// in S3 (client-side encryption), with a data key that AWS KMS wrapped, and moves the
// wrapped data key to another KMS key.
//
//	found, err := clientside.ByMetadata(head.Metadata) // of HeadObject
//	if found.Format == clientside.None {
//		found = clientside.ByContent(first, size) // the first HeadSize bytes of the object
//	}
//	moved, err := found.Rewrap(ctx, kms.NewFromConfig(cfg), clientside.Move{From: old, To: new})
//
// KMS ReEncrypt moves the data key, so that neither it nor the data are ever decrypted
// here. Only the wrapped data key and the name of its KMS key change: all other bytes of
// the object, its metadata and its encryption context stay what they are.
//
// The package calls no S3, and what it reads may be anybody's: it is parsed in linear time
// and within bounds. Which formats are moved, which are not, and why, is in
// docs/decisions/client-side-formats.md.
package clientside

import (
	"github.com/cmkeeper/cmkeeper/envelope"
)

// Format is what wrote the data. The names are part of reports and do not change.
type Format string

// The formats.
const (
	None          Format = ""                   // none of these: nothing is claimed
	S3ClientV1    Format = "s3-client-v1"       // S3 Encryption Client, x-amz-key
	S3ClientV2    Format = "s3-client-v2"       // S3 Encryption Client, x-amz-key-v2
	S3ClientV3    Format = "s3-client-v3"       // S3 Encryption Client, x-amz-3
	EncryptionSDK Format = "aws-encryption-sdk" // a message of the AWS Encryption SDK
	SOPS          Format = "sops"               // a SOPS file: YAML, JSON, dotenv, INI or binary
	Tink          Format = "tink"               // a ciphertext of Tink's KMS envelope AEAD
	TinkKeyset    Format = "tink-keyset"        // a keyset that Tink encrypted, JSON or binary
	Envelope      Format = "cmkeeper-envelope"  // a message of package envelope
	KMSCiphertext Format = "kms-ciphertext"     // what KMS Encrypt returned, and nothing else
)

// Place is where the wrapped data keys are stored.
type Place string

// The places.
const (
	InMetadata        Place = "metadata"         // in the user metadata of the object
	InInstructionFile Place = "instruction-file" // in an object beside it, see InstructionSuffix
	InBody            Place = "body"             // in the object itself, which has to be written anew
)

const (
	// InstructionSuffix is what the S3 Encryption Client adds to an object's key to name
	// its instruction file. A client may be told to use another one.
	InstructionSuffix = ".instruction"
	// HeadSize is how many of an object's first bytes ByContent wants to see.
	HeadSize = 20 << 10
	// MaxBody is the most bytes of an object, or of an instruction file, that Rewrap
	// writes anew.
	MaxBody = 16 << 20
	// maxBlob is the most bytes of a CiphertextBlob, by KMS's API reference.
	maxBlob = 6144
	// maxKeys bounds the wrapped keys of one object, and so the calls to KMS. It is ours.
	maxKeys = 256
)

// HeadSize has to hold the longest header.
var _ [HeadSize - envelope.MaxHeaderSize]struct{}

// Key is one data key, as it is stored.
type Key struct {
	// Wrapped is the data key as KMS returned it.
	Wrapped []byte
	// Context is its encryption context, to the letter.
	Context map[string]string
	// ContextUnknown: the format does not store the context. See Move.Context.
	ContextUnknown bool
	// Label is what the format says of the KMS key that it is wrapped under: the ARN of a
	// key or an alias, or a key's id; "" where it says nothing. Nothing authenticates it.
	Label string
	// LabelInContext: the label is part of the encryption context, which has to stay what
	// it is. After a re-wrap it names the KMS key of before.
	LabelInContext bool
}

// Found is what is known of an object.
type Found struct {
	Format Format
	// Sure: nothing else looks like this. Otherwise it may be something else by chance or
	// by intent, which the first call of KMS tells.
	Sure  bool
	Place Place
	// Keys are the data keys that AWS KMS wrapped. Those of other services are not listed,
	// and stay as they are.
	Keys []Key
	// Partial: what was given is not enough. ByMetadata wants the instruction file to be
	// given to ByInstructionFile, ByContent wants the whole object.
	Partial bool
	// Refusal says why the object cannot be re-wrapped; "" where it can.
	Refusal string
	// NotKMS: a key of the application's own wraps the data key, so that no KMS key is
	// needed to read the object.
	NotKMS bool

	// What a re-wrap changes: one of the metadata, or the body by the edits that slots
	// return, one for each key.
	metadata map[string]string
	name     string
	body     []byte
	slots    []slot
	// again recognises what Rewrap wrote.
	again func([]byte) (Found, error)
}

// slot returns how the body has to be edited for another wrapped key and label.
type slot func(Key) ([]edit, error)

// edit replaces the bytes from start to end.
type edit struct {
	start, end int
	text       string
}

// span is where a text stands in a body.
type span struct{ start, end int }

func (s span) replace(text string) edit { return edit{s.start, s.end, text} }
