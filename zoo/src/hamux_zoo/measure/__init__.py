"""The numbers on the model cards, and the simple guesses beside them."""

from ._baselines import mean_colour as mean_colour, nearest_image as nearest_image
from ._evaluation import (
    classes_of as classes_of,
    completion_errors as completion_errors,
    distinct as distinct,
    error as error,
    evaluate as evaluate,
    nearest_class as nearest_class,
    recalled as recalled,
    salted as salted,
    unknown_mse as unknown_mse,
)
