package s3

import (
	"net/http"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// updateObjectEncryption changes the key of an object in place: its data key is
// wrapped anew and nothing else of it changes. The refusals and their messages
// are those of the API reference of UpdateObjectEncryption.
func (s *Service) updateObjectEncryption(c *call) error {
	var in struct {
		KMS *struct {
			KMSKeyArn        string
			BucketKeyEnabled *string
		} `xml:"SSE-KMS"`
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	if in.KMS == nil {
		return wire.Errorf(400, "InvalidRequest", "Requests that modify an object encryption configuration require a valid new encryption type. Valid values are SSEKMS. Modify the request to specify SSE-KMS for the updated encryption type, and then try again.")
	}
	bucketKey := false // the default: a bucket key is not taken over
	if v := in.KMS.BucketKeyEnabled; v != nil {
		switch *v {
		case "true":
			bucketKey = true
		case "false":
		default:
			return wire.Errorf(400, "InvalidRequest", "The BucketKeyEnabled value isn't valid. Valid values are true or false. Modify the request to specify a valid value, and then try again.")
		}
	}
	keyARN := in.KMS.KMSKeyArn
	if keyARN == "" {
		return wire.Errorf(400, "InvalidRequest", "Requests that modify an object's encryption type to SSE-KMS require an AWS KMS key Amazon Resource Name (ARN). Modify the request to specify a KMS key ARN, and then try again.")
	}
	account, ok := isKeyARN(keyARN)
	if !ok {
		return wire.Errorf(400, "InvalidRequest", "Requests that modify an object's encryption type to SSE-KMS require a valid AWS KMS key Amazon Resource Name (ARN). Confirm that you have a correctly formatted KMS key ARN in your request, and then try again.")
	}
	if account != c.bucket.owner {
		return wire.Errorf(403, "AccessDenied", "The AWS KMS key in the request must be owned by the same account as the bucket. Modify the request to specify a KMS key from the same account, and then try again.")
	}
	// What happens to a delete marker is not documented; localaws refuses it,
	// as a read of it is refused.
	if _, err := c.version(); err != nil {
		return err
	}
	v, err := c.bucket.change(c.key, c.query.Get("versionId"), func(v *version) error {
		if err := v.checkUpdatable(); err != nil {
			return err
		}
		updated, err := s.rewrap(c, v.encryption, keyARN, bucketKey)
		if err != nil {
			return err
		}
		v.encryption = updated
		return nil
	})
	if err != nil {
		return err
	}
	c.setVersion(v)
	return c.empty(http.StatusOK)
}

// checkUpdatable refuses the versions whose encryption can not be updated.
func (v *version) checkUpdatable() error {
	if v.encryption.kind == sseDSSE || v.encryption.kind == sseCustomer {
		return wire.Errorf(400, "InvalidRequest", "The UpdateObjectEncryption operation doesn't support source objects with the encryption type DSSE-KMS or SSE-C. Only source objects encrypted with SSE-S3 or SSE-KMS are supported.")
	}
	if v.lock.protects() {
		return wire.Errorf(403, "AccessDenied", "The encryption type for the specified object can’t be updated because that object is protected by S3 Object Lock. If the object has a governance-mode retention period or a legal hold, you must first remove the Object Lock status on the object before you issue your UpdateObjectEncryption request. You can't use the UpdateObjectEncryption operation with objects that have an Object Lock compliance mode retention period applied to them.")
	}
	return nil
}

// rewrap returns the object's data key under another KMS key. The old key must
// be usable. That the encryption context of the write is kept is not
// documented.
func (s *Service) rewrap(c *call, old *encryption, keyARN string, bucketKey bool) (*encryption, error) {
	if old.kind == sseS3 {
		dataKey, err := s.dataKey(c.caller, c.name, c.key, old, nil)
		if err != nil {
			return nil, err
		}
		return s.wrap(c.caller, c.name, c.key, wanted{kind: sseKMS, keyID: keyARN, bucketKey: bucketKey}, dataKey)
	}
	e := *old
	e.bucketKey = bucketKey
	var err error
	e.outer, e.keyARN, err = s.cfg.Keys.ReEncrypt(c.caller, old.outer, kmsContext(c.name, c.key, old.bucketKey, old.context), keyARN, kmsContext(c.name, c.key, bucketKey, old.context))
	if err != nil {
		return nil, kmsError(err)
	}
	return &e, nil
}
