"""Images and annotations."""

from pathlib import Path

from tests.bad_inputs.case import TEST, Tool, options
from tests.bad_inputs.spoil import (
    FIRST_IMAGE,
    TRAINING,
    VALIDATION,
    checkpoint,
    corners,
    cut,
    each,
    edited,
    picture,
    written,
)

__all__ = ["DATA"]

CLASSES = 'train_dataloader["dataset"] = dict(dataset, metainfo=dict({}))'

DATA = [
    Tool(
        "no_data",
        "data set that is not there",
        "missing data: gone/annotations/instances_train2017.json, gone/train2017/; "
        "put or link the data set there, or set data_root, ann_file and "
        "data_prefix in the config (relative paths start at ...)",
        options("train_dataloader.dataset.data_root=gone/"),
    ),
    Tool(
        "lost_images",
        "images that are missing",
        "1 of the 4 images of data/coco/annotations/instances_train2017.json are "
        "missing: data/coco/train2017/000000000001.png; put them there, or set "
        "data_prefix",
        spoil=lambda folder: (folder / FIRST_IMAGE).unlink(),
    ),
    Tool(
        "corrupt",
        "image with a broken content",
        "image data/coco/train2017/000000000001.png cannot be read: get it once "
        "more, or take it out of ann_file",
        spoil=written(FIRST_IMAGE, b"nothing of an image"),
        leaves_work_dir=True,
    ),
    Tool(
        "corrupt_worker",
        "the same, in a process that loads data",
        "image data/coco/train2017/000000000001.png cannot be read: get it once "
        "more, or take it out of ann_file",
        options("train_dataloader.num_workers=1"),
        spoil=written(FIRST_IMAGE, b"nothing of an image"),
        leaves_work_dir=True,
    ),
    Tool(
        "empty_image",
        "empty image",
        "image data/coco/train2017/000000000001.png cannot be read (it is empty): "
        "get it once more, or take it out of ann_file",
        spoil=written(FIRST_IMAGE),
        leaves_work_dir=True,
    ),
    Tool(
        "other_size",
        "image of another size than its annotations",
        "image data/coco/train2017/000000000001.png is read as 32x32, but has 64x64 in "
        "data/coco/annotations/instances_train2017.json: put the image there that was "
        "annotated, or write boxes, width and height for what is read",
        spoil=picture(FIRST_IMAGE, (32, 32)),
    ),
    Tool(
        "turned",
        "photo that was annotated before it was turned",
        "image data/coco/train2017/000000000001.png is read as 32x64, but has 64x32 in "
        "data/coco/annotations/instances_train2017.json: its EXIF orientation is "
        "applied; give each LoadImageFromFile color_type='color_ignore_orientation', "
        "or write boxes, width and height for what is read",
        spoil=lambda folder: (
            picture(FIRST_IMAGE, (64, 32), orientation=6)(folder),
            edited(TRAINING, lambda c: c["images"][0].update(height=32))(folder),
        ),
    ),
    Tool(
        "color_type",
        "word that no decoder of images knows",
        "LoadImageFromFile(color_type='colour', imdecode_backend='cv2') decodes no "
        "image (KeyError: 'colour'): mend these words",
        options("train_dataloader.dataset.pipeline.0.color_type=colour"),
    ),
    Tool(
        "json_folder",
        "folder in place of annotations",
        "data/coco/annotations cannot be read (Is a directory): ann_file names a "
        "COCO file",
        options("train_dataloader.dataset.ann_file=annotations"),
    ),
    Tool(
        "json_cut",
        "truncated annotations",
        "data/coco/annotations/instances_train2017.json is no whole JSON file "
        "(...): get it once more",
        spoil=cut(TRAINING),
    ),
    Tool(
        "json_other",
        "annotations that are no JSON",
        "data/coco/annotations/instances_train2017.json is no whole JSON file "
        "(...): get it once more",
        spoil=written(TRAINING, b"<html>"),
    ),
    Tool(
        "json_list",
        "JSON of another format",
        "data/coco/annotations/instances_train2017.json has no list of images: "
        "ann_file must be of COCO's format, with images, annotations and "
        "categories",
        spoil=written(TRAINING, b"[]"),
    ),
    Tool(
        "no_categories",
        "annotations without categories",
        "data/coco/annotations/instances_train2017.json has no list of categories: "
        "ann_file must be of COCO's format, with images, annotations and "
        "categories",
        spoil=edited(TRAINING, lambda c: c.pop("categories")),
    ),
    Tool(
        "no_sizes",
        "images without a size",
        "data/coco/annotations/instances_train2017.json: images[0] has no width: "
        "each needs id, file_name, width, height",
        spoil=edited(TRAINING, each("images", width=None)),
    ),
    Tool(
        "no_images",
        "annotations of no image",
        "data/coco/annotations/instances_train2017.json lists no image: give a "
        "file with images",
        spoil=edited(TRAINING, lambda c: c["images"].clear()),
    ),
    Tool(
        "no_boxes",
        "empty annotations",
        "data/coco/annotations/instances_train2017.json has no boxes to learn "
        "from: give a file with annotations",
        spoil=edited(TRAINING, lambda c: c["annotations"].clear()),
    ),
    Tool(
        "no_truth",
        "empty annotations to evaluate with",
        "data/coco/annotations/instances_val2017.json has no boxes: there is "
        "nothing to compare with (to predict without an answer, give the evaluator "
        "format_only=True)",
        (TEST, "tiny.py", "other.pth"),
        spoil=lambda folder: (
            checkpoint()(folder),
            edited(VALIDATION, lambda c: c["annotations"].clear())(folder),
        ),
    ),
    Tool(
        "zero_size",
        "boxes of zero size alone",
        "data/coco/annotations/instances_train2017.json: none of its 8 boxes can "
        "be used, 8 are smaller than a pixel, or outside their image: mend the "
        "boxes (x, y, width and height in pixels)",
        spoil=edited(TRAINING, each("annotations", bbox=[8, 8, 0, 0])),
    ),
    Tool(
        "corners",
        "box that is no box",
        "data/coco/annotations/instances_train2017.json: bbox of annotation 1 is "
        "[8, 8]: write [x, y, width, height] in pixels",
        spoil=edited(TRAINING, each("annotations", bbox=[8, 8])),
    ),
    Tool(
        "corner_outlines",
        "corners in place of boxes, which outlines show",
        "data/coco/annotations/instances_train2017.json: bbox of ... of 8 annotations "
        "fits its outline only as corners x1, y1, x2, y2: write [x, y, width, height]",
        spoil=edited(TRAINING, corners),
    ),
    Tool(
        "no_area",
        "boxes without their area",
        "data/coco/annotations/instances_train2017.json: annotation 1 has no area: "
        "each needs id, image_id, category_id, bbox and area",
        spoil=edited(TRAINING, each("annotations", area=None)),
    ),
    Tool(
        "category",
        "box of a category that is not listed",
        "data/coco/annotations/instances_train2017.json: annotation 1 is of "
        "category 99, which its categories do not list: add it there",
        spoil=edited(TRAINING, each("annotations", category_id=99)),
    ),
    Tool(
        "class_name",
        "class that the annotations do not have",
        "data/coco/annotations/instances_train2017.json has no category 'bicicle' "
        "of metainfo.classes; did you mean bicycle? (it has person, bicycle, car, "
        "...): its boxes would be left out; write the names as they are in the "
        "file",
        options("train_dataloader.dataset.metainfo.classes=('person','bicicle')"),
    ),
    Tool(
        "class_order",
        "classes in another order",
        "metainfo.classes are in another order than in "
        "data/coco/annotations/instances_train2017.json, by which labels are "
        "counted: write classes=('person', 'bicycle')",
        options("train_dataloader.dataset.metainfo.classes=('bicycle','person')"),
    ),
    Tool(
        "class_text",
        "one class without a comma",
        "metainfo.classes is the text 'person': write the names as a tuple, one "
        "name with a comma: classes=('person',)",
        config=CLASSES.format('classes=("person")'),
    ),
    Tool(
        "class_upper",
        "classes as in MMDetection 2.x",
        "metainfo.CLASSES is of MMDetection 2.x and not read: write "
        "metainfo=dict(classes=...)",
        config=CLASSES.format('CLASSES=("person", "bicycle")'),
    ),
    Tool(
        "class_val",
        "other classes in validation",
        "model.bbox_head.num_classes is 2, but val_dataloader.dataset has 3 "
        "classes: write num_classes=3 there, or name other classes in metainfo",
        options("val_dataloader.dataset.metainfo.classes=('person','bicycle','car')"),
    ),
    Tool(
        "no_outlines",
        "boxes alone, for a detector of masks",
        "data/coco/annotations/instances_train2017.json: annotation 1 has no "
        "segmentation, which this detector learns: give outlines, or take a "
        "detector of boxes",
        config='dataset["pipeline"][1]["with_mask"] = True',
        spoil=edited(TRAINING, each("annotations", segmentation=None)),
    ),
    Tool(
        "other_truth",
        "evaluator with annotations of other images",
        "the evaluator's other.json does not know image 1 of "
        "data/coco/annotations/instances_val2017.json: give the evaluator the "
        "ann_file of the data set",
        options("val_evaluator.ann_file=other.json"),
        spoil=lambda folder: (
            (folder / "other.json").write_bytes((folder / VALIDATION).read_bytes()),
            edited(Path("other.json"), lambda c: c["images"].pop(0))(folder),
        ),
    ),
    Tool(
        "crowds",
        "crowds alone",
        "data/coco/annotations/instances_train2017.json: none of its 8 boxes can "
        "be used, 8 are crowds (iscrowd=1): mend the boxes (x, y, width and height "
        "in pixels)",
        spoil=edited(TRAINING, each("annotations", iscrowd=1)),
    ),
    Tool(
        "no_iscrowd",
        "boxes to evaluate with that do not say whether they are crowds",
        "data/coco/annotations/instances_val2017.json: annotation 1 has no iscrowd: "
        "each needs id, image_id, category_id, bbox, area and iscrowd",
        spoil=edited(VALIDATION, each("annotations", iscrowd=None)),
    ),
    Tool(
        "two_points",
        "outlines of two points",
        "data/coco/annotations/instances_train2017.json: none of its 8 boxes can "
        "be used, 8 are without an outline of three points: mend the boxes (x, y, "
        "width and height in pixels)",
        config='dataset["pipeline"][1]["with_mask"] = True',
        spoil=edited(TRAINING, each("annotations", segmentation=[[1, 1, 9, 9]])),
    ),
    Tool(
        "outline_words",
        "outline with a word",
        "data/coco/annotations/instances_train2017.json: annotation 1: a number of its "
        "segmentation is none: write polygons, [[x, y, ...]] in pixels",
        config='dataset["pipeline"][1]["with_mask"] = True',
        spoil=edited(
            TRAINING, each("annotations", segmentation=[["a", 1, 9, 9, 1, 9]])
        ),
    ),
    Tool(
        "annotation_0",
        "boxes to evaluate with that are numbered from 0",
        "data/coco/annotations/instances_val2017.json has an annotation of id 0, whose "
        "match COCO's evaluation counts as a miss: number annotations from 1",
        spoil=edited(VALIDATION, lambda c: c["annotations"][0].update(id=0)),
    ),
    Tool(
        "image_twice",
        "two images of one id",
        "data/coco/annotations/instances_train2017.json: id 1 is of two of its "
        "images: number them anew",
        spoil=edited(TRAINING, each("images", id=1)),
    ),
    Tool(
        "box_twice",
        "two boxes of one id",
        "data/coco/annotations/instances_train2017.json: id 1 is of two of its "
        "annotations: number them anew",
        spoil=edited(TRAINING, each("annotations", id=1)),
    ),
    Tool(
        "no_width",
        "width that is no number",
        "data/coco/annotations/instances_train2017.json: images[0]: width is '64': "
        "write it in pixels",
        spoil=edited(TRAINING, each("images", width="64")),
    ),
    Tool(
        "class_twice",
        "class that is named twice",
        "metainfo.classes has 'person' twice: name each once",
        config=CLASSES.format('classes=("person", "person")'),
    ),
    Tool(
        "small_images",
        "images that `filter_cfg` leaves out",
        "filter_cfg leaves none of the 4 images of "
        "data/coco/annotations/instances_train2017.json: see its min_size",
        options("train_dataloader.dataset.filter_cfg.min_size=65"),
    ),
    Tool(
        "json_mark",
        "annotations with a byte order mark",
        "data/coco/annotations/instances_train2017.json begins with a byte order "
        "mark: save it as UTF-8 without one",
        spoil=written(TRAINING, b"\xef\xbb\xbf{}"),
    ),
]
