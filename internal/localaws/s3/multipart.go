package s3

// maxParts is how many parts an upload may have.
const maxParts = 10000

type upload struct{}
