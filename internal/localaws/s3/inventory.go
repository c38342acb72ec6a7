package s3

import "time"

// Listed is what an inventory of a bucket says of an object.
type Listed struct {
	Key string
	// VersionID is "" in a bucket that never had versions.
	VersionID string
	Size      int64
	Modified  time.Time
	// Encryption is S3's name of it ("aws:kms"), KeyARN and BucketKey are of KMS.
	Encryption, KeyARN string
	BucketKey          bool
}

// Inventory returns the current objects of a bucket in the order of their keys,
// as S3 itself knows them, and false where there is no such bucket. No API tells
// the keys of all objects.
func (s *Service) Inventory(bucket string) ([]Listed, bool) {
	s.mu.RLock()
	b := s.buckets[bucket]
	s.mu.RUnlock()
	if b == nil {
		return nil, false
	}
	var list []Listed
	b.mu.RLock()
	defer b.mu.RUnlock()
	cur := b.objects.from("")
	for e := cur.next(); e != nil; e = cur.next() {
		v := e.latest()
		if v.marker {
			continue
		}
		l := Listed{
			Key: e.key, Size: v.size, Modified: v.modifiedTime(),
			Encryption: v.encryption.kind, KeyARN: v.encryption.keyARN, BucketKey: v.encryption.bucketKey,
		}
		if b.versioning != "" {
			l.VersionID = v.id
		}
		list = append(list, l)
	}
	return list, true
}
