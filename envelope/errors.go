package envelope

import (
	"errors"
	"fmt"
)

// What may be wrong with a message, to be told apart with errors.Is. An error that comes
// from KMS wraps KMS's own as well, and one that is none of these (a throttled call, a
// broken connection, a cancelled context) may go away by itself.
var (
	// ErrNotEnvelope: it does not begin as messages of this package do.
	ErrNotEnvelope = errors.New("not an envelope")
	// ErrVersion: a newer version of this package made it.
	ErrVersion = errors.New("made by a newer version")
	// ErrTampered: it was changed, cut, extended or put together from others. KMS also
	// refuses a wrapped key that way whose header was made to show another context.
	ErrTampered = errors.New("tampered with")
	// ErrContext: the encryption context is not the message's, is empty, or is against the
	// rules.
	ErrContext = errors.New("wrong encryption context")
	// ErrKey: the message is under a KMS key that is not trusted, or that its data key is
	// not wrapped under.
	ErrKey = errors.New("wrong KMS key")
	// ErrKeyUnusable: the KMS key is disabled, pending deletion, without its material or
	// deleted, or is in another Region than the client.
	ErrKeyUnusable = errors.New("the KMS key cannot be used")
	// ErrDenied: IAM or the key's policy does not allow it. KMS says the same of keys of
	// other accounts that do not exist.
	ErrDenied = errors.New("access denied by KMS")
)

// errClosed is of a Sealer that was closed.
var errClosed = errors.New("the sealer is closed")

// kmsError says what KMS refused to do, and which of our errors that is. The codes are
// those of the API reference of GenerateDataKey and Decrypt; AccessDeniedException is
// among the errors that all services have in common, and has no type in the SDK.
func kmsError(what string, err error) error {
	var api interface{ ErrorCode() string }
	if errors.As(err, &api) {
		if ours := codes[api.ErrorCode()]; ours != nil {
			return fmt.Errorf("%s: %w: %w", what, ours, err)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

var codes = map[string]error{
	"AccessDeniedException": ErrDenied,
	"IncorrectKeyException": ErrKey,
	// The context that was given is the header's by then, so one of the two was changed.
	"InvalidCiphertextException": ErrTampered,
	// Not KeyUnavailableException, which says to try again.
	"DisabledException":        ErrKeyUnusable,
	"KMSInvalidStateException": ErrKeyUnusable,
	"NotFoundException":        ErrKeyUnusable,
	"InvalidKeyUsageException": ErrKeyUnusable,
}
